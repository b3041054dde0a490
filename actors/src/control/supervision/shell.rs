//! One actix actor around one part of the control plane.
//!
//! **Owns** how a part receives messages, how its panics are caught, and how it is built anew.
//! **Lives on** the control plane's thread.
//! **Invariants** a panic in a part never leaves the part half-changed in use: what waited in it is
//! refused, and it is rebuilt from the tables before the next message; the request that caused it
//! is answered with code 1.
//! **Limits** the restart budget of `gantry_runtime::control`; over it, the process ends.
//! **Not here** what a part does.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message, Supervised, Supervisor};
use gantry_protocol::code::response;
use gantry_runtime::control::{RestartBudget, guard};

use crate::refusal::Refusal;

use crate::control::plane::Plane;
use crate::control::reply::ReplyTo;

/// A part of the control plane: plain state and what it does with a message.
pub trait Part: Sized + Unpin + 'static {
    /// Its name in logs and in the tree.
    const NAME: &'static str;
    /// What it is told.
    type Msg: Send + 'static;

    /// Builds it from the tables, at start and after a panic.
    ///
    /// # Errors
    /// Why the tables can't be read; the process then ends.
    fn build(plane: &Rc<Plane>) -> Result<Self, Refusal>;

    /// Acts on a message.
    fn handle(&mut self, message: Self::Msg, plane: &Rc<Plane>);

    /// Who waits for an answer to this message; told when `handle` panics.
    fn waiting(message: &Self::Msg) -> Option<ReplyTo> {
        let _ = message;
        None
    }

    /// Refuses whatever waits inside, before the part is dropped after a panic.
    fn abandon(&mut self, plane: &Rc<Plane>, why: &Refusal) {
        let _ = (plane, why);
    }
}

/// Where a part receives its messages.
pub struct Inbox<P: Part>(actix::Addr<Shell<P>>);

impl<P: Part> Clone for Inbox<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Part> Inbox<P> {
    /// Hands over a message; it is handled after those sent before it.
    pub fn tell(&self, message: P::Msg) {
        self.0.do_send(Told::Do(message));
    }

    /// Makes the part panic when it comes to this message.
    #[cfg(test)]
    pub fn inject_panic(&self) {
        self.0.do_send(Told::Panic);
    }
}

/// A message on its way.
enum Told<M> {
    Do(M),
    #[cfg(test)]
    Panic,
}

impl<M: 'static> Message for Told<M> {
    type Result = ();
}

/// The actor; see the room's head.
pub struct Shell<P: Part> {
    part: Option<P>,
    plane: Rc<Plane>,
    budget: RestartBudget,
}

/// Starts a part under actix's supervisor.
///
/// # Errors
/// The tables can't be read.
pub fn start<P: Part>(plane: &Rc<Plane>) -> Result<Inbox<P>, Refusal> {
    let part = P::build(plane)?;
    plane.tree.enter(P::NAME);
    let shell = Shell {
        part: Some(part),
        plane: Rc::clone(plane),
        budget: plane.budget(P::NAME),
    };
    Ok(Inbox(Supervisor::start(|_| shell)))
}

impl<P: Part> Actor for Shell<P> {
    type Context = Context<Self>;
}

impl<P: Part> Supervised for Shell<P> {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        let plane = Rc::clone(&self.plane);
        match guard::<Self, _>(&self.budget, ctx, |_| P::build(&plane)) {
            Some(Ok(part)) => {
                self.part = Some(part);
                self.plane.tree.restarted(P::NAME);
            }
            Some(Err(refusal)) => self.plane.give_up(P::NAME, &refusal.remark),
            // The budget has counted it; without a part messages are refused until the next try.
            None => {}
        }
    }
}

impl<P: Part> Handler<Told<P::Msg>> for Shell<P> {
    type Result = ();

    fn handle(&mut self, told: Told<P::Msg>, ctx: &mut Context<Self>) {
        let why = || {
            Refusal::new(
                response::SYSTEM_ERROR,
                format!("a fault in the broker's {} part, which restarts", P::NAME),
            )
        };
        let waiting = match &told {
            Told::Do(message) => P::waiting(message),
            #[cfg(test)]
            Told::Panic => None,
        };
        let plane = Rc::clone(&self.plane);
        let done = self.part.as_mut().and_then(|part| {
            guard::<Self, _>(&self.budget, ctx, |_| match told {
                Told::Do(message) => part.handle(message, &plane),
                #[cfg(test)]
                Told::Panic => panic!("injected"),
            })
        });
        if done.is_some() {
            return;
        }
        if let Some(to) = waiting {
            plane.refuse(&to, &why());
        }
        if let Some(mut part) = self.part.take() {
            guard::<Self, _>(&self.budget, ctx, |_| part.abandon(&plane, &why()));
        }
    }
}
