use std::net::TcpListener;

use super::*;

fn settings(work: &Path, port: u16) -> Settings {
    Settings {
        work: work.to_owned(),
        port,
        peer_heap: String::new(),
        peer_set: Vec::new(),
        set: Vec::new(),
        commit: String::new(),
    }
}

#[test]
fn a_killed_gantry_s_tail_goes_with_its_folder() {
    let (work, shm) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::new(Side::Gantry, &settings(work.path(), 0), false).unwrap();
    let data = data_of(&server.dir);
    fs::create_dir(&data).unwrap();
    let [tail, other] = ["gantry-1-0.tail", "gantry-2-0.tail"].map(|f| shm.path().join(f));
    for file in [&tail, &other] {
        fs::write(file, "records").unwrap();
    }
    fs::write(data.join("tail-0.path"), tail.to_str().unwrap()).unwrap();
    fs::write(data.join("tail-1.path"), "gantry-1-1.tail").unwrap();
    drop(server);
    assert!(!tail.exists() && !data.exists());
    assert!(other.exists(), "another store's");
}

#[test]
fn a_killed_peer_is_gone_when_its_port_is_free() {
    let work = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = settings(work.path(), listener.local_addr().unwrap().port() - 10);
    let mut peer = Server::new(Side::Peer, &settings, false).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(peer.dir.join("broker.pid"), child.id().to_string()).unwrap();
    let held = Duration::from_millis(200);
    let holder = std::thread::spawn(move || {
        std::thread::sleep(held);
        drop(listener);
    });
    let since = Instant::now();
    peer.kill9().unwrap();
    assert!(since.elapsed() >= held, "{:?}", since.elapsed());
    child.wait().unwrap();
    holder.join().unwrap();
}

fn started_by(peer: &Server, script: &str) -> Result<StartTook, BenchError> {
    let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
    let took = peer.await_first_send(&mut child, Instant::now(), Path::new("start.log"));
    let has_ended = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    child.wait().unwrap();
    assert!(!has_ended, "the script was waited for");
    took
}

/// The peer's script polls until its broker says that it is up: seconds and CPU are read before.
#[test]
fn what_a_start_took_is_read_at_the_first_answer_of_the_process_started() {
    let work = tempfile::tempdir().unwrap();
    let port = ready::tests::answering().port();
    let settings = settings(work.path(), port - ready::PEER_BROKER);
    let peer = Server::new(Side::Peer, &settings, false).unwrap();
    let own = std::process::id();
    fs::write(peer.dir.join("broker.pid"), own.to_string()).unwrap();
    let took = started_by(&peer, "exec sleep 60").unwrap();
    assert!(took.cpu_seconds <= cpu_seconds(own).unwrap(), "{took:?}");
    assert!(took.seconds < 30.0, "{took:?}");
    // Whatever else answers there is not the peer.
    fs::write(peer.dir.join("broker.pid"), "1").unwrap();
    let error = started_by(&peer, "exec sleep 60").unwrap_err().to_string();
    assert!(error.ends_with("process 1 was started"), "{error}");
}

#[test]
fn a_server_is_not_started_at_a_port_that_somebody_has() {
    let work = tempfile::tempdir().unwrap();
    let port = ready::tests::answering().port();
    let settings = settings(work.path(), port - ready::GANTRY_BROKER);
    let mut gantry = Server::new(Side::Gantry, &settings, false).unwrap();
    let error = gantry.start().unwrap_err().to_string();
    assert!(
        error.contains(&format!("port {port} is not free")),
        "{error}"
    );
    assert!(!gantry.started && gantry.child.is_none());
}
