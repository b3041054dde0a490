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
