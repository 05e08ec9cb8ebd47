//! [`Raw`]: the person's terminal in raw mode, and back in the old one whatever happens.
//!
//! Used by `shell`. Raw means that every key is a byte for the guest, Ctrl-C as well, and that nothing is echoed. The old
//! mode comes back when the value is dropped, and before a panic's message, since a panic ends this program without
//! dropping anything. A request to terminate lets the command end in order (`process`), and so drops the value. Only
//! SIGKILL leaves a terminal raw.

use std::io::{self, IsTerminal, stdin, stdout};
use std::panic;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The mode to go back to, while the terminal is raw.
static OLD_MODE: Mutex<Option<Termios>> = Mutex::new(None);

/// Columns of a terminal that does not say.
const USUAL_COLUMNS: usize = 80;

/// How wide the terminal is at which a person sits; `None` when there is none: when standard input or output is
/// something else.
pub(crate) fn columns() -> Option<usize> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return None;
    }
    let columns = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_col));
    Some(if columns == 0 { USUAL_COLUMNS } else { columns })
}

/// The terminal is raw while this is there.
#[must_use = "the terminal goes back to its old mode when this is dropped"]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal on standard input raw.
    ///
    /// # Errors
    ///
    /// When it is none, or refuses.
    pub(crate) fn enter() -> io::Result<Self> {
        let old = tcgetattr(stdin())?;
        let mut raw = old.clone();
        raw.make_raw();
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        *OLD_MODE.lock().unwrap_or_else(PoisonError::into_inner) = Some(old);
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(old) = OLD_MODE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // It fails where the terminal is gone, and then there is nothing to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &old);
    }
}
