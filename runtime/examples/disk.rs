//! What the real disk costs: direct writes of 4 and 64 KiB with and without fdatasync, into
//! zeroed and into merely reserved space, and reads of 64 KiB.
//!
//! `cargo run --release -p gantry-runtime --example disk [folder]`

use std::path::PathBuf;
use std::time::Instant;

use gantry_runtime::glommio_disk::GlommioDisk;
use gantry_runtime::shard::{CorePlan, DataCores, IO_MEMORY_BYTES_MAX};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::unbound;
use gantry_storage::disk::{Disk, DiskError, DiskFile, OpenMode};

const FILE_BYTES: u64 = 64 << 20;
const ROUNDS: u64 = 400;

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let root = PathBuf::from(folder).join(format!("disk-example-{}", std::process::id()));
    let shutdown = Shutdown::new();
    let mut plan = CorePlan::new(unbound(1));
    plan.io_memory_bytes = IO_MEMORY_BYTES_MAX;
    let seats = vec![root.clone()];
    let cores = DataCores::start(&plan, &shutdown, seats, |core, root: PathBuf| async move {
        let disk = match GlommioDisk::open(&root, core.queues.flush).await {
            Ok(disk) => disk,
            Err(error) => return println!("{error}"),
        };
        if let Err(error) = measure(&disk).await {
            println!("{error}");
        }
    });
    match cores {
        Ok(cores) => drop(cores.join()),
        Err(error) => println!("{error}"),
    }
    if let Err(error) = std::fs::remove_dir_all(&root) {
        println!("{}: {error}", root.display());
    }
}

async fn measure(disk: &GlommioDisk) -> Result<(), DiskError> {
    let reserved = disk
        .open("reserved", OpenMode::CreateLen(FILE_BYTES))
        .await?;
    let zeroed = disk.open("zeroed", OpenMode::CreateLen(FILE_BYTES)).await?;
    for position in (0..FILE_BYTES).step_by(1 << 20) {
        let mut buf = disk.alloc(1 << 20);
        buf.as_mut().fill(0);
        zeroed.write_at(buf, position).await?;
    }
    zeroed.sync().await?;
    for (space, file) in [("zeroed", &zeroed), ("reserved", &reserved)] {
        for (bytes, sync) in [(4096, false), (4096, true), (65_536, false), (65_536, true)] {
            let name = format!("{space:>8} write {:>2} KiB sync={sync}", bytes / 1024);
            let begin = (Instant::now(), cpu_us());
            for round in 0..ROUNDS {
                let buf = disk.alloc(bytes);
                let position = round * bytes as u64;
                if sync {
                    file.write_at_and_sync(buf, position).await?;
                } else {
                    file.write_at(buf, position).await?;
                }
            }
            say(&name, begin);
        }
    }
    let begin = (Instant::now(), cpu_us());
    for round in 0..ROUNDS {
        zeroed.read_at(round * 65_536, 65_536).await?;
    }
    say("         read 64 KiB", begin);
    Ok(())
}

fn say(name: &str, (begin, cpu): (Instant, i64)) {
    let each = begin.elapsed().as_micros() / u128::from(ROUNDS);
    let cpu_each = (cpu_us() - cpu) / ROUNDS.cast_signed();
    println!("{name:<34} {each:>6} us, {cpu_each:>4} CPU us");
}

fn cpu_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}
