//! The files of a directory as a program finishes them: told by the kernel when each was closed. Where that cannot be
//! had, or where the kernel lost count, whoever follows finds them when the program has ended.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;

/// Sends the name of each file that was written and closed in one directory, until it is dropped; a few may come after.
#[derive(Debug)]
pub struct Arrivals {
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    events: Arc<OwnedFd>,
    number: i32,
}

/// Some hundred names at once.
const EVENTS_BYTES: usize = 16 << 10;

impl Arrivals {
    /// To be called before the program starts.
    pub fn of(folder: &Path, names: UnboundedSender<String>) -> Self {
        let watch = watch(folder, names).inspect_err(|error| {
            tracing::info!("{} is not watched ({error}): its files are stored when all are written", folder.display());
        });
        Self { watch: watch.ok() }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if let Some(Watch { events, number }) = self.watch.take() {
            // The kernel says so to the thread, which ends. Of a directory that is gone it has done so.
            let _ = inotify::remove_watch(&events, number);
        }
    }
}

fn watch(folder: &Path, names: UnboundedSender<String>) -> std::io::Result<Watch> {
    let events = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
    let number = inotify::add_watch(&events, folder, WatchFlags::CLOSE_WRITE)?;
    let followed = Arc::clone(&events);
    thread::Builder::new().name("arrivals".to_owned()).spawn(move || follow(&followed, &names))?;
    Ok(Watch { events, number })
}

fn follow(events: &OwnedFd, names: &UnboundedSender<String>) {
    let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::IGNORED) => return,
            Ok(event) => {
                // A loss of events has no name.
                if let Some(name) = event.file_name()
                    && names.send(name.to_string_lossy().into_owned()).is_err()
                {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::info!("files are not told any more ({errno}): they are stored when all are written");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn a_file_is_told_when_it_is_closed_and_the_end_ends_the_thread() {
        let folder = tempfile::tempdir().unwrap();
        let (send, mut names) = unbounded_channel();
        let arrivals = Arrivals::of(folder.path(), send);
        let open = std::fs::File::create(folder.path().join("open")).unwrap();
        std::fs::write(folder.path().join("closed"), "x").unwrap();
        assert_eq!(names.blocking_recv().unwrap(), "closed");
        drop(open);
        assert_eq!(names.blocking_recv().unwrap(), "open");
        drop(arrivals);
        assert_eq!(names.blocking_recv(), None);
    }

    #[test]
    fn without_a_directory_nothing_is_told() {
        let (send, mut names) = unbounded_channel();
        drop(Arrivals::of(Path::new("/nowhere"), send));
        assert_eq!(names.blocking_recv(), None);
    }
}
