//! `gantry up`: a name server and a broker in one process.
//!
//! **Owns** the newcomer's defaults, and what the start prints.
//! **Lives on** the main thread.
//! **Invariants** nothing is written before the ports are held and the configuration is sound.
//! **Limits** none of its own.
//! **Not here** the two parts (`namesrv`, `broker`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use gantry_actors::namesrv::settings::NamesrvSettings;
use gantry_runtime::shutdown::{Shutdown, StopReport};
use gantry_runtime::topology;

use crate::broker::starting::NotStarted;
use crate::config::address::HeldPort;
use crate::config::broker::{self as config, BrokerPlan};
use crate::config::namesrv as namesrv_config;
use crate::config::{Origin, Values};
use crate::{broker, cli, namesrv, print, signals};

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(args: &cli::Up) -> Result<(), String> {
    let since = Instant::now();
    let namesrv_settings = namesrv_settings(args)?;
    let shutdown = Shutdown::new();
    let held = if args.print_config {
        None
    } else {
        signals::watch(&shutdown)?;
        match namesrv::hold(namesrv_settings.listen, &shutdown) {
            Ok(held) => Some(held),
            Err(why) => return why.end(),
        }
    };
    let namesrv_address = held
        .as_ref()
        .map_or(namesrv_settings.listen, |held| held.address);
    let file_lines = config::values().lines();
    let mut values = broker_values(args, reachable(namesrv_address));
    let plan = config::plan_with_kept(&mut values, file_lines, topology::memory_bytes());
    let plan: BrokerPlan = plan.map_err(|errors| errors.to_string())?;
    print::notices(&plan.notices);
    let Some(held) = held else {
        return print::answer(&values.print()).map(drop);
    };
    match serve(plan, (namesrv_settings, held), since, &shutdown) {
        Ok(report) => print::stopped(&shutdown, &report),
        Err(why) => why.end(),
    }
}

fn serve(
    plan: BrokerPlan,
    (namesrv_settings, held): (NamesrvSettings, HeldPort),
    since: Instant,
    shutdown: &Shutdown,
) -> Result<StopReport, NotStarted> {
    let ports = broker::hold(&plan.settings, shutdown)?;
    let replies = broker::replies(&plan);
    let name_server = namesrv::start(namesrv_settings, &held, Arc::clone(&replies), shutdown)?;
    drop(held);
    let running = match broker::start_with(plan, ports, &replies, shutdown) {
        Ok(running) => running,
        Err(why) => {
            name_server.stop(&mut StopReport::new());
            return Err(why);
        }
    };
    let took_ms = since.elapsed().as_millis();
    say!("Gantry {} is up ({took_ms} ms)", crate::cli::VERSION);
    say!("  name server  {}", name_server.address);
    print::broker(&running);
    print::next_steps(name_server.address, running.settings.advertised.ip());
    say!(
        "ready: broker {} namesrv {}",
        running.settings.advertised,
        reachable(name_server.address)
    );
    shutdown.wait_blocking();
    let mut report = StopReport::new();
    running.stop(&mut report);
    name_server.stop(&mut report);
    Ok(report)
}

fn namesrv_settings(args: &cli::Up) -> Result<NamesrvSettings, String> {
    let mut values = namesrv_config::values();
    let folder = args.data.join("namesrv");
    for (key, name, value) in [
        ("bindAddress", "--listen", args.listen.to_string()),
        (
            "listenPort",
            "--namesrv-port",
            args.namesrv_port.to_string(),
        ),
        (
            "kvConfigPath",
            "--data",
            folder.join("kvConfig.json").display().to_string(),
        ),
        (
            "configStorePath",
            "--data",
            folder.join("namesrv.properties").display().to_string(),
        ),
    ] {
        values.give(key, &value, Origin::Flag(name));
    }
    namesrv_config::give_kept(&mut values);
    let plan = namesrv_config::plan(&mut values).map_err(|errors| errors.to_string())?;
    Ok(plan.settings)
}

fn broker_values(args: &cli::Up, namesrv: SocketAddr) -> Values {
    let mut values = config::values();
    for (key, name, value) in [
        (
            "storePathRootDir",
            "--data",
            Some(args.data.display().to_string()),
        ),
        ("bindAddress", "--listen", Some(args.listen.to_string())),
        ("listenPort", "--port", Some(args.port.to_string())),
        ("cores", "--cores", args.cores.clone()),
        ("namesrvAddr", "gantry up", Some(namesrv.to_string())),
    ] {
        if let Some(value) = value {
            values.give(key, &value, Origin::Flag(name));
        }
    }
    for (key, value) in &args.sets {
        // Further name servers come beside the one of this process, never instead of it.
        if key == "namesrvAddr" {
            values.give(key, &format!("{namesrv};{value}"), Origin::Set);
        } else {
            values.give(key, value, Origin::Set);
        }
    }
    values
}

/// Where this process reaches an address it listens on.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port());
    }
    listen
}
