//! Being in a namespace for a while.

use std::marker::PhantomData;

use nix::sched::{CloneFlags, setns};

use super::Namespace;
use crate::Error;

/// The calling thread is in another network namespace for as long as this lives. It cannot leave its thread.
pub struct Entered {
    back: Namespace,
    _not_send: PhantomData<*const ()>,
}

impl Entered {
    pub(super) fn new(namespace: &Namespace) -> Result<Self, Error> {
        let back = Namespace::current()?;
        setns(&namespace.file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Namespace {
            action: "enter",
            namespace: namespace.name.clone(),
            errno,
        })?;
        Ok(Self { back, _not_send: PhantomData })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if setns(&self.back.file, CloneFlags::CLONE_NEWNET).is_err() {
            // A thread that goes on in the wrong namespace would write a pod's routes on the host.
            std::process::abort();
        }
    }
}
