//! Ctrl-C: the first asks the command to end, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the command was asked to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on Ctrl-C and SIGTERM ask the command to end.
#[cfg(unix)]
pub fn listen() {
    extern "C" fn ask(signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
        // The next one does what it does by default.
        #[expect(unsafe_code, reason = "`signal` may be called in a handler")]
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        #[expect(
            unsafe_code,
            reason = "the handler only stores to an atomic and resets itself, both allowed there"
        )]
        unsafe {
            libc::signal(signal, ask as *const () as libc::sighandler_t);
        }
    }
}

/// Elsewhere Ctrl-C ends the process.
#[cfg(not(unix))]
pub fn listen() {}
