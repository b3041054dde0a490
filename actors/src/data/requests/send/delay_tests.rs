use super::*;
use crate::data::testing::settings as defaults;

fn settings() -> BrokerSettings {
    BrokerSettings {
        delay_levels_ms: vec![1000, 5000],
        timer_max_delay_sec: 100,
        ..defaults()
    }
}

fn read(sent: &str, flags: i32) -> Result<Delay, i32> {
    let found = SendProperties::scan(sent);
    Delay::of(&found, sent, flags, &settings(), 1_000_000).map_err(|refusal| refusal.code)
}

#[test]
fn levels_are_cut_and_win_over_timers() {
    assert_eq!(read("DELAY\u{1}1\u{2}", 0), Ok(Delay::Level(1)));
    assert_eq!(read("DELAY\u{1}99\u{2}", 0), Ok(Delay::Level(2)));
    for none in ["0", "-1", "x"] {
        assert_eq!(read(&format!("DELAY\u{1}{none}\u{2}"), 0), Ok(Delay::None));
    }
    let both = "TIMER_DELAY_MS\u{1}50\u{2}DELAY\u{1}1\u{2}a\u{1}b\u{2}";
    assert_eq!(read(both, 0), Ok(Delay::Level(1)));
    let mut out = Vec::new();
    Delay::Level(1).rewrite(both, "T", 3, &mut out);
    let out = String::from_utf8(out).unwrap();
    assert_eq!(
        out,
        "REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}3\u{2}DELAY\u{1}1\u{2}a\u{1}b\u{2}"
    );
    assert_eq!(
        read("DELAY\u{1}1\u{2}", sys_flag::TRANSACTION_PREPARED),
        Ok(Delay::None)
    );
}

#[test]
fn timers_have_an_order_a_limit_and_a_past() {
    let all =
        "TIMER_DELIVER_MS\u{1}1000001\u{2}TIMER_DELAY_MS\u{1}7\u{2}TIMER_DELAY_SEC\u{1}2\u{2}";
    assert_eq!(read(all, 0), Ok(Delay::Until(1_002_001)));
    assert_eq!(
        read("TIMER_DELAY_MS\u{1}7\u{2}", 0),
        Ok(Delay::Until(1_000_008))
    );
    assert_eq!(read("TIMER_DELIVER_MS\u{1}999\u{2}", 0), Ok(Delay::None));
    assert_eq!(
        read("TIMER_DELAY_SEC\u{1}100\u{2}", 0),
        Ok(Delay::Until(1_100_001))
    );
    assert_eq!(read("TIMER_DELAY_MS\u{1}100001\u{2}", 0), Err(13));
    assert_eq!(read("TIMER_DELAY_MS\u{1}x\u{2}", 0), Err(13));
    assert_eq!(
        read("TIMER_DELAY_MS\u{1}7\u{2}TIMER_OUT_MS\u{1}5\u{2}", 0),
        Ok(Delay::None)
    );
    for marked in [
        "TIMER_DELIVER_MS\u{1}999999\u{2}",
        "TIMER_DELAY_SEC\u{1}0\u{2}",
        "TIMER_DELAY_SEC\u{1}9\u{2}",
    ] {
        let marked = format!("{marked}TIMER_DEL_UNIQKEY\u{1}u\u{2}");
        assert_eq!(read(&marked, 0), Err(13), "{marked}");
    }
    let off = BrokerSettings {
        timer_wheel_enable: false,
        ..settings()
    };
    let sent = "TIMER_DELAY_MS\u{1}7\u{2}";
    let refused = Delay::of(&SendProperties::scan(sent), sent, 0, &off, 5);
    assert_eq!(refused.unwrap_err().code, 1);
}
