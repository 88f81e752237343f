//! A way to a server that only another program can open, such as `kubectl port-forward`.
//!
//! We choose a free port of the loopback interface and start the program. It counts as standing when a process of its own
//! listens there: whoever else is faster to take the port would be told our password. It is never probed with a
//! connection, which would reach the server. When the program ends, whatever leans on the tunnel stops.

mod listener;

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::foreign;
use crate::config::environment::Environment;
use crate::config::file::PORT;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::process::{Child, Exit};
use listener::Owner;

/// Lines of the program's standard error that an error repeats.
const REPEATED_LINES: usize = 5;
/// How often the port is looked at until somebody listens there.
const PAUSE: Duration = Duration::from_millis(30);
/// How many ports are tried where others take them before the program does.
const ATTEMPTS: usize = 3;

/// What a tunnel is made of.
#[derive(Clone, Debug)]
pub struct TunnelCommand {
    /// A program and its arguments, in which `{port}` is replaced.
    pub words: Vec<String>,
    /// The caller's; the program gets nothing of it that is PostgreSQL's or ours.
    pub environment: Environment,
    /// Whose server it leads to, for messages.
    pub instance: String,
}

/// A tunnel that stands. Dropped, it is ended; [`Tunnel::close`] also waits for that.
#[derive(Debug)]
pub struct Tunnel {
    pub port: u16,
    /// Stops with the tunnel.
    pub interrupt: Interrupt,
    stop: CancellationToken,
    watch: Option<JoinHandle<()>>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Tunnel {
    /// Starts the program and waits, no longer than `patience`, until it listens. Whatever leans on the tunnel takes the
    /// interrupt of the tunnel in the place of `interrupt`.
    pub async fn open(command: &TunnelCommand, patience: Duration, interrupt: &Interrupt) -> Result<Self> {
        let deadline = Instant::now() + patience;
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            let mut starting = Starting::begin(command, port)?;
            match interrupt.guard(starting.stands(deadline)).await {
                Ok(Standing::Ours) => return Ok(starting.watched(interrupt)),
                Ok(Standing::TakenByOthers) => {
                    starting.child.terminate().await;
                }
                Ok(Standing::Ended) => return Err(starting.ended().await),
                Ok(Standing::Silent) => return Err(starting.silent(patience).await),
                Err(stopped) => {
                    starting.child.terminate().await;
                    return Err(stopped);
                }
            }
        }
        Err(command.error("found its port taken by another program, several times").hint("run it again"))
    }

    /// Ends the program and waits until it is gone.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Some(watch) = self.watch.take() {
            // It has no way to fail.
            let _ = watch.await;
        }
    }
}

impl TunnelCommand {
    fn error(&self, what: &str) -> Error {
        Error::new(Kind::Connect, format!("the tunnel of instance {} {what}", self.instance))
            .hint("run the command of tunnel by hand, with a free port in the place of {port}")
    }

    /// A tunnel that stood, or never did, is gone.
    fn ended(&self, exit: &Exit) -> Error {
        let error = self.error(&format!("ended with {}", exit.reason()));
        let from = exit.stderr.len().saturating_sub(REPEATED_LINES);
        match exit.stderr[from..].join("; ") {
            words if words.is_empty() => error,
            words => error.because(words.chars().take(1000).collect::<String>()),
        }
    }
}

/// A port of the loopback interface that nobody uses.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(listener.doing(Kind::Unexpected, || "find a free port for the tunnel")?.port())
}

enum Standing {
    Ours,
    TakenByOthers,
    Ended,
    Silent,
}

/// The program runs, and nobody knows yet whether it will listen.
struct Starting<'a> {
    command: &'a TunnelCommand,
    port: u16,
    child: Child,
}

impl<'a> Starting<'a> {
    fn begin(command: &'a TunnelCommand, port: u16) -> Result<Self> {
        let number = port.to_string();
        let words: Vec<String> = command.words.iter().map(|word| word.replace(PORT, &number)).collect();
        let program = foreign::program(&words, &command.environment, "tunnel")?;
        tracing::info!("tunnel of instance {}: {}", command.instance, program.command_line());
        Ok(Self { command, port, child: program.spawn_quiet()? })
    }

    async fn stands(&mut self, deadline: Instant) -> Result<Standing> {
        loop {
            if self.child.has_ended()? {
                return Ok(Standing::Ended);
            }
            let group = self.child.id();
            let port = self.port;
            // Many processes take a moment to look at.
            let owner = tokio::task::spawn_blocking(move || listener::owner_of(port, group));
            match owner.await.doing(Kind::Unexpected, || "look who listens")? {
                Owner::Group => return Ok(Standing::Ours),
                Owner::Another => return Ok(Standing::TakenByOthers),
                Owner::Nobody if Instant::now() > deadline => return Ok(Standing::Silent),
                Owner::Nobody => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// From here on its end is a loss.
    fn watched(self, interrupt: &Interrupt) -> Tunnel {
        let (stop, leaning) = (CancellationToken::new(), interrupt.leaning());
        let (stopped, lost, command, child) = (stop.clone(), leaning.clone(), self.command.clone(), self.child);
        let watch = tokio::spawn(async move {
            let stop = async {
                stopped.cancelled().await;
                Error::new(Kind::Interrupted, "the tunnel is not needed any more")
            };
            if let Ok(exit) = child.wait_unless(stop).await {
                lost.lose(command.ended(&exit));
            }
        });
        Tunnel { port: self.port, interrupt: leaning, stop, watch: Some(watch) }
    }

    async fn ended(self) -> Error {
        match self.child.wait().await {
            Ok(exit) => self.command.ended(&exit),
            Err(error) => error,
        }
    }

    async fn silent(self, patience: Duration) -> Error {
        let words = self.child.terminate().await;
        let error =
            self.command.error(&format!("did not listen on port {} within {} s", self.port, patience.as_secs()));
        match words.last() {
            Some(last) => error.because(last.clone()),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Signal;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn command(words: &[&str]) -> TunnelCommand {
        let environment = Environment::from_pairs([("PATH", "/usr/bin:/bin"), ("PGPASSWORD", "hunter2")]);
        TunnelCommand {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            environment,
            instance: "x".into(),
        }
    }

    /// Says what it is told on standard input is all that it does; `script` runs beside the listening.
    fn listening(script: &str) -> TunnelCommand {
        let python = "import os, socket, sys, subprocess\n\
            s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen()\n\
            sys.exit(subprocess.call(['sh', '-c', sys.argv[2]]))";
        command(&["python3", "-c", python, "{port}", script])
    }

    #[tokio::test]
    async fn a_tunnel_stands_when_its_program_listens_and_goes_with_its_group() {
        let interrupt = Interrupt::default();
        let one = Tunnel::open(&listening("exec sleep 1000"), PATIENCE, &interrupt).await.unwrap();
        let two =
            Tunnel::open(&listening("test -z \"$PGPASSWORD\" && exec sleep 1000"), PATIENCE, &interrupt).await.unwrap();
        assert_ne!(one.port, two.port);
        let port = two.port;
        one.close().await;
        two.close().await;
        // The port can be had again: nobody holds it.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!interrupt.is_requested());
    }

    #[tokio::test]
    async fn the_end_of_the_program_stops_what_leans_on_it_in_its_own_words() {
        let interrupt = Interrupt::default();
        let tunnel = Tunnel::open(&listening("echo lost connection to pod >&2; exit 7"), PATIENCE, &interrupt).await;
        // It may be faster than we look.
        let error = match tunnel {
            Ok(tunnel) => tunnel.interrupt.stopped().await,
            Err(error) => error,
        };
        assert_eq!(error.to_string(), "the tunnel of instance x ended with exit code 7: lost connection to pod");
        assert_eq!(error.kind, Kind::Connect);
        assert!(!interrupt.is_requested());
    }

    #[tokio::test]
    async fn a_program_that_never_listens_is_given_up_and_ended() {
        let interrupt = Interrupt::default();
        let silent = command(&["sh", "-c", "echo waiting for {port} >&2; exec sleep 1000"]);
        let error = Tunnel::open(&silent, Duration::from_millis(300), &interrupt).await.unwrap_err();
        assert!(error.to_string().contains("did not listen on port"), "{error}");
        assert!(error.to_string().contains("waiting for "), "{error}");
        let error = Tunnel::open(&command(&["no-such-program", "{port}"]), PATIENCE, &interrupt).await.unwrap_err();
        assert_eq!(
            (error.kind, error.to_string().as_str()),
            (Kind::MissingProgram, "Missing command: no-such-program")
        );
        interrupt.request(Signal::Term);
        let error = Tunnel::open(&silent, PATIENCE, &interrupt).await.unwrap_err();
        assert_eq!(error.kind, Kind::Terminated);
    }
}
