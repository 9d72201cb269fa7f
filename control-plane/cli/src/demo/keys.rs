//! What a key means.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The next canary is the one that keys act on.
    Next,
    /// Percent points to move to the canary.
    Shift(i8),
    /// What the canary is to do from now on.
    Fault(Fault),
    /// Kills an application, which stays down.
    Kill,
    /// Starts it again.
    Restart,
    /// Kills a sidecar, which is started again by its supervisor.
    KillSidecar,
    /// Shows or hides the help.
    Help,
    /// Ends the demo.
    Quit,
}

/// What a version of an application can be made to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its work.
    #[default]
    None,
    /// Answer every request with an error.
    Fail,
    /// Answer none.
    Hang,
}

impl Fault {
    /// As the shop's applications take it (`POST /_control`).
    pub(super) const fn mode(self) -> &'static str {
        match self {
            Self::None => "ok",
            Self::Fail => "fail",
            Self::Hang => "hang",
        }
    }
}

/// Each key and what it does, as the help shows it.
pub(super) const HELP: [(&str, &str); 10] = [
    (
        "tab",
        "choose the canary: payments, order-service or product-service",
    ),
    ("+  -", "move its weight by 10 % (edits the VirtualService)"),
    (
        "f",
        "make its v2 fail: every request gets an error (shown by !)",
    ),
    ("h", "make its v2 hang: no request gets an answer (also !)"),
    ("o", "make its v2 work again"),
    ("k", "kill the application of inventory-2, one of two"),
    ("r", "start it again"),
    ("s", "kill its sidecar; the supervisor starts it again"),
    ("?", "this help"),
    ("q", "quit"),
];

/// The action of a key; `None` if it has none.
pub(super) fn action(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => Some(Action::Quit),
        KeyCode::Char(_) if control => None,
        KeyCode::Tab => Some(Action::Next),
        KeyCode::Char('+' | '=') | KeyCode::Right => Some(Action::Shift(10)),
        KeyCode::Char('-') | KeyCode::Left => Some(Action::Shift(-10)),
        KeyCode::Char('f') => Some(Action::Fault(Fault::Fail)),
        KeyCode::Char('h') => Some(Action::Fault(Fault::Hang)),
        KeyCode::Char('o') => Some(Action::Fault(Fault::None)),
        KeyCode::Char('k') => Some(Action::Kill),
        KeyCode::Char('r') => Some(Action::Restart),
        KeyCode::Char('s') => Some(Action::KillSidecar),
        KeyCode::Char('?') | KeyCode::F(1) => Some(Action::Help),
        KeyCode::Char('q') | KeyCode::Esc => Some(Action::Quit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_help_does_something() {
        let mut actions = Vec::new();
        for key in HELP.iter().flat_map(|(keys, _)| keys.split_whitespace()) {
            let mut chars = key.chars();
            let code = match (chars.next(), chars.next()) {
                (Some(key), None) => KeyCode::Char(key),
                _ => KeyCode::Tab,
            };
            let action = action(KeyEvent::from(code)).unwrap();
            assert!(!actions.contains(&action), "{key} repeats {action:?}");
            actions.push(action);
        }
    }

    #[test]
    fn control_c_quits_and_other_control_keys_do_nothing() {
        let key = |code| KeyEvent::new(KeyCode::Char(code), KeyModifiers::CONTROL);
        assert_eq!(action(key('c')), Some(Action::Quit));
        assert_eq!(action(key('k')), None);
        assert_eq!(action(KeyEvent::from(KeyCode::Char('x'))), None);
    }
}
