//! To whom is encrypted, and what opens it.

use std::path::PathBuf;

use clap::Args;

/// To whom what is stored is encrypted. Public keys are no secrets.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Encryption")]
pub struct RecipientArgs {
    /// Encrypt everything to this public key of age ('age1...') or SSH ('ssh-ed25519 ...', 'ssh-rsa ...'); may be repeated, and
    /// each key opens all of it (default: the recipients of each repository in the configuration)
    #[arg(long, value_name = "KEY")]
    pub recipient: Vec<String>,

    /// A file with one such key on each line
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub recipients_file: Option<PathBuf>,
}

impl RecipientArgs {
    pub fn is_given(&self) -> bool {
        !self.recipient.is_empty() || self.recipients_file.is_some()
    }
}

/// What opens what is encrypted.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Encryption")]
pub struct IdentityArgs {
    /// A file with a secret key that opens encrypted backups: one of age-keygen, also protected by a passphrase, or a
    /// private key of SSH; may be repeated (default: $PGKEEP_IDENTITY, $PGKEEP_IDENTITY_FILE, the configuration)
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub identity_file: Vec<PathBuf>,
}
