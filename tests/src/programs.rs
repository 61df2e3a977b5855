//! The kernel programs, for tests that load them.

use std::{io::ErrorKind, path::PathBuf};

use aya::programs::{ProgramError, SchedClassifier};

/// How often a program is loaded that could not be for a passing reason.
const ATTEMPTS: usize = 100;

/// Where the object is.
///
/// # Panics
/// When it is not there.
pub fn object() -> PathBuf {
    let object = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/margay-dataplane");
    assert!(object.exists(), "{} is not built: run `make ebpf`", object.display());
    object
}

/// Loads a program. The verifier stops when a signal is to be taken, as when another test's child has ended: then it is tried again.
///
/// # Errors
/// When the kernel refuses it.
pub fn load(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    let mut outcome = program.load();
    for _ in 1..ATTEMPTS {
        let is_stopped = |error: &ProgramError| matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == ErrorKind::WouldBlock);
        if !outcome.as_ref().is_err_and(is_stopped) {
            break;
        }
        outcome = program.load();
    }
    outcome
}
