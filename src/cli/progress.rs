//! Progress on standard error: a bar on a terminal, a line now and then elsewhere.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgkeep::progress::{Monitor, Silent, Task, Unit};

use super::arguments::Progress;
use super::output::{bytes, harmless};

/// How often a line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The monitor for the way that was asked for, and where bars are drawn, so that log lines can pass above them.
pub fn monitor(how: Progress, is_terminal: bool) -> (Arc<dyn Monitor>, Option<MultiProgress>) {
    match (how, is_terminal) {
        (Progress::Auto, true) | (Progress::Bar, _) => {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            (Arc::new(Bars(bars.clone())), Some(bars))
        }
        (Progress::Auto, false) | (Progress::Line, _) => (Arc::new(Lines), None),
        (Progress::None, _) => (Arc::new(Silent), None),
    }
}

#[derive(Debug)]
struct Bars(MultiProgress);

impl Monitor for Bars {
    fn task(&self, label: &str, unit: Unit, total: Option<u64>) -> Arc<dyn Task> {
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            (Unit::Bytes, None) => "{prefix} {spinner} {bytes} {bytes_per_sec} {elapsed} {msg}",
            (Unit::Items, Some(_)) => "{prefix} [{bar:30}] {pos}/{len} {eta} {msg}",
            (Unit::Items, None) => "{prefix} {spinner} {pos} {elapsed} {msg}",
        };
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.0.add(bar).with_style(style.progress_chars("=> ")).with_prefix(harmless(label));
        Arc::new(BarTask(bar))
    }
}

#[derive(Debug)]
struct BarTask(ProgressBar);

impl Task for BarTask {
    fn advance(&self, count: u64) {
        self.0.inc(count);
        // The total is an estimate: a bar that is overtaken grows instead of lying.
        if self.0.length().is_some_and(|length| self.0.position() > length) {
            self.0.set_length(self.0.position());
        }
    }

    fn note(&self, text: &str) {
        self.0.set_message(harmless(text));
    }
}

impl Drop for BarTask {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[derive(Debug)]
struct Lines;

impl Monitor for Lines {
    fn task(&self, label: &str, unit: Unit, total: Option<u64>) -> Arc<dyn Task> {
        let now = Instant::now();
        Arc::new(LineTask {
            label: harmless(label),
            unit,
            total,
            done: AtomicU64::new(0),
            started: now,
            written: Mutex::new(now),
            note: Mutex::new(String::new()),
        })
    }
}

#[derive(Debug)]
struct LineTask {
    label: String,
    unit: Unit,
    total: Option<u64>,
    done: AtomicU64,
    started: Instant,
    written: Mutex<Instant>,
    note: Mutex<String>,
}

impl LineTask {
    fn line(&self, done: u64) -> String {
        let amount = |count| match self.unit {
            Unit::Bytes => bytes(count),
            Unit::Items => count.to_string(),
        };
        let of = self.total.map_or(String::new(), |total| format!(" of about {}", amount(total.max(done))));
        let note = self.note.lock().map(|note| note.clone()).unwrap_or_default();
        let seconds = self.started.elapsed().as_secs();
        format!("{}: {}{of} in {seconds} s {note}", self.label, amount(done)).trim_end().to_owned()
    }
}

impl Task for LineTask {
    fn advance(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        let Ok(mut written) = self.written.try_lock() else { return };
        if written.elapsed() >= LINE_EVERY {
            *written = Instant::now();
            super::output::say(&self.line(done));
        }
    }

    fn note(&self, text: &str) {
        if let Ok(mut note) = self.note.lock() {
            *note = harmless(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_move_the_cursor() {
        let task = LineTask {
            label: String::new(),
            unit: Unit::Items,
            total: None,
            done: AtomicU64::new(0),
            started: Instant::now(),
            written: Mutex::new(Instant::now()),
            note: Mutex::new(String::new()),
        };
        task.note("public.a\n\u{1b}[2J");
        assert!(task.line(0).ends_with("public.a\\n\\u{1b}[2J"), "{}", task.line(0));
        let bar = BarTask(ProgressBar::hidden());
        bar.note("public.a\n\u{1b}[2J");
        assert_eq!(bar.0.message(), "public.a\\n\\u{1b}[2J");
    }
}
