//! `gantry up`: a name server and a broker in one process.
//!
//! **Owns** the defaults of a first start and the lines to paste next.
//! **Lives on** the main thread.
//! **Invariants** the name server serves before the broker registers, and stops after the broker has left.
//! **Limits** those of the two parts.
//! **Not here** the parts' own wiring (`broker`, `namesrv`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use gantry_runtime::probe;
use gantry_runtime::shutdown::{Shutdown, StopReport};

use crate::config::values::Origin;
use crate::{broker, cli, config, namesrv, print, signals};

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(args: &cli::Up) -> Result<(), String> {
    let since = Instant::now();
    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    let mut names = config::namesrv::values();
    let listen = args.listen.to_string();
    names.give("bindAddress", &listen, Origin::Flag("--listen"));
    names.give(
        "listenPort",
        &args.namesrv_port.to_string(),
        Origin::Flag("--namesrv-port"),
    );
    for (key, file) in [
        ("kvConfigPath", "kvConfig.json"),
        ("configStorePath", "namesrv.properties"),
    ] {
        let path = args.data.join("namesrv").join(file).display().to_string();
        names.give(key, &path, Origin::Flag("--data"));
    }
    let names = config::namesrv::plan(&mut names).map_err(|errors| errors.to_string())?;
    let mut values = config::broker::values();
    values.give(
        "storePathRootDir",
        &args.data.display().to_string(),
        Origin::Flag("--data"),
    );
    values.give("bindAddress", &listen, Origin::Flag("--listen"));
    values.give("listenPort", &args.port.to_string(), Origin::Flag("--port"));
    let held_names = namesrv::hold(names.settings.listen)?;
    let namesrv_address = reachable(held_names.address);
    values.give(
        "namesrvAddr",
        &namesrv_address.to_string(),
        Origin::Flag("--namesrv-port"),
    );
    broker::finish_values(&mut values, args.cores.as_deref(), &args.sets);
    let mut plan = broker::plan(&mut values)?;
    if args.print_config {
        print!("{}", values.print());
        return Ok(());
    }
    let held = broker::hold(&mut plan)?;
    let names = namesrv::start(names.settings, &held_names, &shutdown)?;
    let broker = broker::start(plan, &held, &shutdown)?;
    println!(
        "gantry {} is up ({})",
        env!("CARGO_PKG_VERSION"),
        broker::took(since)
    );
    println!("  name server   {}", names.address);
    broker.describe();
    describe_machine(broker.cores_count, &broker.settings.data_dir);
    println!("next:");
    println!("  gantry send MyTopic \"hello\" --namesrv {namesrv_address}");
    println!("  gantry receive MyTopic --group my-group --from first --namesrv {namesrv_address}");
    println!("  Java, Go, mqadmin: name server address {namesrv_address}");
    println!(
        "ready: broker {} namesrv {namesrv_address}",
        broker.settings.advertised
    );
    shutdown.wait_blocking();
    let mut report = StopReport::new();
    broker.stop(&mut report);
    names.stop(&mut report);
    print::stopped(&shutdown, &report)
}

/// Where a process of this machine reaches an address that may be "any".
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

fn describe_machine(cores: usize, data: &Path) {
    println!("  this machine (gantry doctor says more):");
    print!("{}", probe::Report::take(cores, data));
}
