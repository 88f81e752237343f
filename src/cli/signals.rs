//! Signals: the first asks the work to stop where nothing is lost, a second one ends the process at once.

use pgkeep::interrupt::{Interrupt, Signal as Stop};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Turns SIGINT, SIGTERM and SIGHUP into a request to stop.
pub fn listen(interrupt: Interrupt) -> std::io::Result<()> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    // A handler of ours would undo what `nohup` is for.
    let mut hup = if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
    // Once asked for, it stays caught, and a limit on the size of files is a failed write ("File too large") instead of
    // a death without a word.
    let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = int.recv() => Stop::Int,
                _ = term.recv() => Stop::Term,
                () = received(&mut hup) => Stop::Hup,
            };
            if interrupt.is_requested() {
                // Nothing counts before its manifest is written, so stopping here loses nothing either.
                super::passphrase::give_back_terminal();
                std::process::exit(i32::from(signal.kind().exit_code()));
            }
            interrupt.request(signal);
        }
    });
    Ok(())
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with the signal ignored; not, where the kernel does not say.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}
