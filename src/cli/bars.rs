//! Progress for people: bars on a terminal, one line per finished piece of work elsewhere.
#![allow(clippy::print_stderr, reason = "progress lines go to stderr")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinHandle;

use super::output::{Output, bytes, count, rate, seconds};
use crate::progress::{Counters, Event, Progress, Step};

/// How often bars are redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows a run's progress until it is stopped.
#[derive(Debug)]
pub(super) struct Shown {
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Shown {
    /// Begins to show what `progress` reports.
    pub(super) fn start(progress: &Progress, output: Output) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let show =
            Show { bars: output.has_bars().then(MultiProgress::new), lines: output.has_lines(), open: HashMap::new() };
        Self { stop, task: tokio::spawn(show.run(progress.subscribe(), stopped)) }
    }

    /// Shows what is left and removes the bars.
    pub(super) async fn stop(self) {
        // Errors say that the task has ended already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

struct Show {
    bars: Option<MultiProgress>,
    lines: bool,
    open: HashMap<(Step, String), (Arc<Counters>, Option<ProgressBar>)>,
}

impl Show {
    async fn run(mut self, mut events: Receiver<Event>, mut stopped: tokio::sync::oneshot::Receiver<()>) {
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.take(event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = redraw.tick() => self.redraw(),
                _ = &mut stopped => break,
            }
        }
        while let Ok(event) = events.try_recv() {
            self.take(event);
        }
        if let Some(bars) = &self.bars {
            // A terminal that refuses to be cleared has nothing to lose.
            let _ = bars.clear();
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Started { step, name, counters } => {
                let bar = self.bars.as_ref().map(|bars| bars.add(new_bar(step, &name)));
                self.open.insert((step, name), (counters, bar));
            }
            Event::Finished { step, name, counters, .. } => {
                let line = finished_line(step, &name, &counters);
                self.close(step, name, &line);
            }
            Event::Stopped { step, name } => {
                let line = format!("{step:<10} {name:<36} stopped");
                self.close(step, name, &line);
            }
            Event::Warning { step, message } => self.print(&format!("{step:<10} warning: {message}")),
        }
    }

    fn close(&mut self, step: Step, name: String, line: &str) {
        if let Some((_, Some(bar))) = self.open.remove(&(step, name)) {
            bar.finish_and_clear();
        }
        self.print(line);
    }

    fn print(&self, line: &str) {
        match &self.bars {
            Some(bars) => {
                // The line is lost only with the terminal.
                let _ = bars.println(line);
            }
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
    }

    fn redraw(&self) {
        for (counters, bar) in self.open.values() {
            let Some(bar) = bar else { continue };
            if let Some(expected) = counters.rows_expected() {
                // An estimate may fall short of the truth.
                bar.set_length(expected.max(counters.rows()));
            }
            bar.set_position(counters.rows());
            let done = counters.bytes();
            let elapsed = counters.elapsed().as_secs_f64();
            bar.set_message(if done > 0 { format!("{}  {}", bytes(done), rate(done, elapsed)) } else { String::new() });
            bar.tick();
        }
    }
}

fn new_bar(step: Step, name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(format!("{step:<10} {name:<36}"));
    let style = "{prefix} {bar:24.cyan/blue} {human_pos:>11} rows  {msg}  {elapsed} (ETA {eta})";
    // The template is ours; were it wrong, the default style would show.
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn finished_line(step: Step, name: &str, counters: &Counters) -> String {
    let elapsed = counters.elapsed().as_secs_f64();
    let mut line = format!("{step:<10} {name:<36} {:>11} rows  {:>8}", count(counters.rows()), seconds(elapsed));
    if counters.bytes() > 0 {
        line.push_str(&format!("  {:>9}  {:>9}", bytes(counters.bytes()), rate(counters.bytes(), elapsed)));
    }
    line
}
