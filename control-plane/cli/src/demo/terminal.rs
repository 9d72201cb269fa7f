//! The terminal: taken over while the demo runs, given back however it ends.
//!
//! Keys come from a thread of their own, because reading them blocks; it ends with the [`Keyboard`].

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keys::{self, Action};
use super::screen::{Scene, draw};

/// How long the keyboard's thread may outlive the demo.
const LOOK: Duration = Duration::from_millis(100);
/// Keys typed ahead; more wait in the terminal.
const KEYS_MAX: usize = 16;

/// The screen. Dropping it gives the terminal back; so does a panic.
#[derive(Debug)]
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// If it is none, or does not obey.
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    /// Draws.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(super) fn show(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        self.0.draw(|frame| draw(frame, scene)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What the user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Asks for something.
    Act(Action),
    /// Changed the terminal's size: draw again.
    Resize,
}

/// The keyboard; its thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keyboard {
    inputs: mpsc::Receiver<Input>,
    _thread: JoinSet<()>,
    _stop: DropGuard,
}

impl Keyboard {
    /// Starts to read keys, of a terminal in raw mode.
    pub(super) fn open() -> Self {
        let (tell, inputs) = mpsc::channel(KEYS_MAX);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut thread = JoinSet::new();
        thread.spawn_blocking(move || read(&tell, &stopped));
        Self {
            inputs,
            _thread: thread,
            _stop: stop.drop_guard(),
        }
    }

    /// The next input; never, when there can be none any more. Cancel safe: yes.
    pub(super) async fn next(&mut self) -> Input {
        match self.inputs.recv().await {
            Some(input) => input,
            None => std::future::pending().await,
        }
    }
}

fn read(tell: &mpsc::Sender<Input>, stopped: &CancellationToken) {
    while !stopped.is_cancelled() {
        match event::poll(LOOK) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        let input = match event::read() {
            Ok(Event::Key(key)) => keys::action(key).map(Input::Act),
            Ok(Event::Resize(..)) => Some(Input::Resize),
            Ok(Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_)) => None,
            Err(_) => return,
        };
        if input.is_some_and(|input| tell.blocking_send(input).is_err()) {
            return;
        }
    }
}
