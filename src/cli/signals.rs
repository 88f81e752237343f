//! Signals: the first asks the work to stop where nothing is lost, a second one ends the process at once.

use pgkeep::error::Kind;
use pgkeep::interrupt::Interrupt;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// Turns SIGINT, SIGTERM and SIGHUP into a request to stop.
pub fn listen(interrupt: Interrupt) -> std::io::Result<()> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    // Once asked for, it stays caught, and a limit on the size of files is a failed write ("File too large") instead of
    // a death without a word.
    let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    tokio::spawn(async move {
        loop {
            let kind = tokio::select! {
                _ = int.recv() => Kind::Interrupted,
                _ = term.recv() => Kind::Terminated,
                _ = hup.recv() => Kind::Terminated,
            };
            if interrupt.is_requested() {
                // Nothing counts before its manifest is written, so stopping here loses nothing either.
                std::process::exit(i32::from(kind.exit_code()));
            }
            interrupt.request(kind);
        }
    });
    Ok(())
}
