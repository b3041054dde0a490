//! Supervisors: long-running tasks of the control plane that are made anew after a panic.
//!
//! **Owns** how one is started and named in the tree.
//! **Lives on** the control plane's thread.
//! **Invariants** a panic costs the supervisor its memory and nobody else anything: it is logged
//! with its cause, and the task is made anew and rebuilds what it knows from the tables and the
//! log.
//! **Limits** the budget of `gantry_runtime::control`; over it, the process ends.
//! **Not here** what a supervisor does (`delay`), parts that are actors (`shell`).

use std::future::Future;
use std::rc::Rc;

use gantry_runtime::control::guard_task;

use super::tree::PartState;
use crate::control::plane::Plane;

/// Starts a supervisor; `make` gives its life, from reading its state on, and is called again after
/// a panic.
pub fn start<F, Fut>(plane: &Rc<Plane>, name: &'static str, make: F)
where
    F: Fn(Rc<Plane>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let budget = plane.budget(name);
    let plane = Rc::clone(plane);
    actix::spawn(guard_task(budget, move || {
        plane.tree.set_state(name, PartState::Starting);
        make(Rc::clone(&plane))
    }));
}
