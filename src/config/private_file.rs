//! Files that configure us: read only if nobody can have put words into them, and, where they hold keys, only if those
//! who must not know them cannot read them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::error::{Doing as _, Error, Kind, Result};
use crate::process::shell_word;

/// Who may read the file beside its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// It may hold keys.
    Group,
    /// It names places only.
    Everyone,
}

/// More than anybody configures.
const LIMIT_BYTES: u64 = 1 << 20;

/// The text of `path`; links are followed, as Kubernetes mounts a secret behind two.
///
/// [`Kind::Refused`] if the group or others may write it, or if more may read it than `readers`. What is asked is the
/// file that was opened, so that no other one can take its place in between.
pub fn read(path: &Path, readers: Readers) -> Result<String> {
    let bytes = read_bytes(path, readers)?;
    String::from_utf8(bytes).map_err(|_| Error::usage(format!("read {}", path.display())).because("it is not UTF-8"))
}

/// As [`read`], of what need not be text.
pub fn read_bytes(path: &Path, readers: Readers) -> Result<Vec<u8>> {
    let doing = || format!("read {}", path.display());
    // Without NONBLOCK, opening a pipe that nobody writes to waits for ever.
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(no_wait).open(path).doing(Kind::Usage, doing)?;
    let metadata = file.metadata().doing(Kind::Usage, doing)?;
    if !metadata.is_file() {
        return Err(Error::usage(doing()).because("it is not a file"));
    }
    judge(path, metadata.mode(), readers)?;
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).doing(Kind::Usage, doing)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(Error::usage(doing()).because("it is larger than 1 MB"));
    }
    Ok(bytes)
}

fn judge(path: &Path, mode: u32, readers: Readers) -> Result<()> {
    let everybody_reads = mode & 0o004 != 0 && readers == Readers::Group;
    let what = match mode {
        _ if mode & 0o002 != 0 => "every user may change it",
        _ if mode & 0o020 != 0 => "its group may change it",
        _ if everybody_reads => "every user may read the keys in it",
        _ => return Ok(()),
    };
    let (chmod, kubernetes) = match readers {
        Readers::Group => ("0600", "0400"),
        Readers::Everyone => ("0644", "0444"),
    };
    Err(Error::refused(format!("{} is not used: {what} (mode {:04o})", path.display(), mode & 0o7777)).hint(format!(
        "chmod {chmod} {} (a secret or config map that Kubernetes mounts: defaultMode: {kubernetes})",
        shell_word(OsStr::new(path))
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_used_if_only_its_owner_can_change_it_and_no_stranger_reads_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db backup.env");
        fs::write(&path, "A=1\n").unwrap();
        let refused = |mode, readers| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path, readers).err().map(|error| (error.kind, error.next_step().unwrap().to_owned()))
        };
        for mode in [0o600, 0o400, 0o440, 0o640, 0o700] {
            assert_eq!(refused(mode, Readers::Group), None, "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o660, 0o620, 0o602, 0o666, 0o444] {
            let (kind, hint) = refused(mode, Readers::Group).unwrap();
            assert_eq!(kind, Kind::Refused, "{mode:o}");
            assert!(hint.starts_with("chmod 0600 '/"), "{hint}");
            assert!(hint.contains("db backup.env'") && hint.contains("defaultMode: 0400"), "{hint}");
        }
        assert_eq!(refused(0o644, Readers::Everyone), None);
        assert_eq!(refused(0o664, Readers::Everyone).unwrap().0, Kind::Refused);
        assert_eq!(refused(0o646, Readers::Everyone).unwrap().0, Kind::Refused);
    }

    #[test]
    fn links_are_followed_and_what_they_lead_to_is_judged() {
        let folder = tempfile::tempdir().unwrap();
        let (data, link) = (folder.path().join("..data"), folder.path().join("db.env"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("db.env"), "A=1\n").unwrap();
        symlink("..data/db.env", &link).unwrap();
        fs::set_permissions(data.join("db.env"), fs::Permissions::from_mode(0o440)).unwrap();
        assert_eq!(read(&link, Readers::Group).unwrap(), "A=1\n");
        fs::set_permissions(data.join("db.env"), fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(read(&link, Readers::Group).unwrap_err().kind, Kind::Refused);
    }

    #[test]
    fn what_is_no_readable_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("binary");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o600)).unwrap();
        let large = folder.path().join("large");
        fs::write(&large, vec![b'\n'; 1 + (1 << 20)]).unwrap();
        fs::set_permissions(&large, fs::Permissions::from_mode(0o600)).unwrap();
        for (path, why) in [
            (folder.path(), "it is not a file"),
            (&folder.path().join("none"), "No such file"),
            (&binary, "it is not UTF-8"),
            (&large, "it is larger than 1 MB"),
        ] {
            let error = read(path, Readers::Group).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            let text = error.to_string();
            assert!(text.contains(why) && text.contains(path.to_str().unwrap()), "{text}");
        }
    }
}
