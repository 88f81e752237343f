//! Asks for the passphrase of a key at the terminal, and shows nothing of what is typed.

use std::sync::{Mutex, PoisonError};

use pgkeep::config::secret::Secret;
use pgkeep::error::{Doing as _, Kind, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::output::harmless;

/// How the terminal was before it was asked not to show what is typed. Whoever is stopped meanwhile gets it back so.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// `name` is what the passphrase protects.
pub fn ask(name: &str) -> Result<Secret> {
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(std::io::stdin()).ok();
    let typed = rpassword::prompt_password(format!("passphrase of {}: ", harmless(name)));
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    typed.map(Secret::new).doing(Kind::Usage, || "ask for the passphrase")
}

/// Before the process ends while somebody is being asked.
pub fn give_back_terminal() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}
