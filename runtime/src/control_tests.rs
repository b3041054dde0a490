use std::cell::Cell;

use actix::{Context, Handler, Message, Supervised, Supervisor};

use super::*;

#[derive(Message)]
#[rtype(result = "Option<u32>")]
struct Ask {
    panic: bool,
}

struct Fragile {
    budget: RestartBudget,
    starts: Rc<Cell<u32>>,
    answered: u32,
}

impl Actor for Fragile {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.starts.set(self.starts.get() + 1);
    }
}

impl Supervised for Fragile {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.answered = 0;
    }
}

impl Handler<Ask> for Fragile {
    type Result = Option<u32>;

    fn handle(&mut self, ask: Ask, context: &mut Self::Context) -> Self::Result {
        let budget = self.budget.clone();
        guard::<Self, _>(&budget, context, |_| {
            assert!(!ask.panic, "injected");
            self.answered += 1;
            self.answered
        })
    }
}

fn fragile(shutdown: &Shutdown) -> (actix::Addr<Fragile>, Rc<Cell<u32>>) {
    let starts = Rc::new(Cell::new(0));
    let budget = RestartBudget::new("fragile", shutdown);
    let seen = Rc::clone(&starts);
    let addr = Supervisor::start(move |_| Fragile {
        budget,
        starts: seen,
        answered: 0,
    });
    (addr, starts)
}

#[test]
fn a_panic_restarts_the_actor_and_only_it() {
    let shutdown = Shutdown::new();
    let (news, seen) = flume::bounded(1);
    let control = ControlPlane::start(&shutdown, move |shutdown| async move {
        let (addr, starts) = fragile(&shutdown);
        assert_eq!(addr.send(Ask { panic: false }).await.unwrap(), Some(1));
        assert_eq!(addr.send(Ask { panic: false }).await.unwrap(), Some(2));
        assert_eq!(addr.send(Ask { panic: true }).await.unwrap(), None);
        assert_eq!(addr.send(Ask { panic: false }).await.unwrap(), Some(1));
        news.send(starts.get()).unwrap();
        shutdown.wait().await;
    })
    .unwrap();
    assert_eq!(seen.recv().unwrap(), 2);
    assert!(!shutdown.is_triggered());
    shutdown.ask("done");
    control.join().unwrap();
}

#[test]
fn over_budget_the_process_is_asked_to_stop_with_the_cause() {
    let shutdown = Shutdown::new();
    let control = ControlPlane::start(&shutdown, |shutdown| async move {
        let (addr, _) = fragile(&shutdown);
        for _ in 0..=RESTARTS_MAX {
            let _ = addr.send(Ask { panic: true }).await;
        }
        shutdown.wait().await;
    })
    .unwrap();
    shutdown.wait_blocking();
    let reason = shutdown.reason().unwrap();
    assert!(reason.is_failure());
    let text = reason.to_string();
    assert!(
        text.contains("fragile") && text.contains("injected"),
        "{text}"
    );
    control.join().unwrap();
}

#[test]
fn a_task_that_panics_is_made_anew() {
    let shutdown = Shutdown::new();
    let (news, seen) = flume::unbounded();
    let control = ControlPlane::start(&shutdown, move |shutdown| async move {
        let tries = Rc::new(Cell::new(0_u32));
        let budget = RestartBudget::new("task", &shutdown);
        guard_task(budget, || {
            tries.set(tries.get() + 1);
            let (tries, news) = (tries.get(), news.clone());
            async move {
                assert!(tries > 2, "not yet");
                news.send(tries).unwrap();
            }
        })
        .await;
    })
    .unwrap();
    control.join().unwrap();
    assert_eq!(seen.recv().unwrap(), 3);
    assert!(!shutdown.is_triggered());
}

#[test]
fn a_panic_of_the_main_future_is_a_failure_with_its_cause() {
    let shutdown = Shutdown::new();
    let control = ControlPlane::start(&shutdown, |_| async { panic!("no tables") }).unwrap();
    assert_eq!(control.join().unwrap_err(), "no tables");
    assert!(shutdown.reason().unwrap().to_string().contains("no tables"));
}

#[test]
fn stop_ends_a_system_whose_main_future_waits() {
    let shutdown = Shutdown::new();
    let control = ControlPlane::start(&shutdown, |_| std::future::pending::<()>()).unwrap();
    assert!(!control.is_finished());
    control.stop().unwrap();
}
