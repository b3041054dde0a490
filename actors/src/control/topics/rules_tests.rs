use super::*;
use crate::control::topics::built_in::topic;

fn made(
    wanted: &str,
    template: Option<&TopicConfig>,
    auto: bool,
    client_queues: i32,
) -> Result<TopicConfig, Refusal> {
    from_template(wanted, "TBW102", template, auto, client_queues, false)
}

#[test]
fn trap_26_the_template_gives_queues_and_perm_without_inherit() {
    let template = topic("TBW102", 8, perm::READ | perm::WRITE | perm::INHERIT);
    let config = made("T", Some(&template), true, 4).unwrap();
    assert_eq!((config.read_queue_nums, config.write_queue_nums), (4, 4));
    assert_eq!(config.perm, perm::READ | perm::WRITE);
    assert_eq!(
        made("T", Some(&template), true, 64)
            .unwrap()
            .write_queue_nums,
        8
    );
    assert_eq!(
        made("T", Some(&template), true, -1)
            .unwrap()
            .write_queue_nums,
        0
    );
}

#[test]
fn no_template_no_inherit_or_switched_off_is_17() {
    let template = topic("TBW102", 8, 7);
    let no_inherit = topic("TBW102", 8, 6);
    let refusals = [
        made("T", None, true, 4),
        made("T", Some(&no_inherit), true, 4),
        made("T", Some(&template), false, 4),
    ];
    for refusal in refusals {
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, response::TOPIC_NOT_EXIST);
        assert!(
            refusal.remark.contains("topic[T] not exist"),
            "{}",
            refusal.remark
        );
    }
    // Another template than TBW102 is not subject to the switch.
    let own = topic("MyTemplate", 8, 7);
    assert!(from_template("T", "MyTemplate", Some(&own), false, 4, false).is_ok());
}

#[test]
fn trap_105_a_retry_topic_takes_the_template_s_queues_as_well() {
    let template = topic("TBW102", 8, 7);
    assert_eq!(
        made("%RETRY%g", Some(&template), true, 4)
            .unwrap()
            .write_queue_nums,
        4
    );
}

#[test]
fn trap_35_percent_and_bar_are_legal_blanks_are_not() {
    assert!(check_topic_name("%RETRY%g|x-1_2").is_ok());
    for bad in ["", "  ", "a b", "a/b", "ä"] {
        assert_eq!(
            check_topic_name(bad).unwrap_err().code,
            response::INVALID_PARAMETER,
            "{bad}"
        );
    }
    assert!(check_topic_name(&"t".repeat(128)).is_err());
    assert!(check_topic_name(&format!("%RETRY%{}", "g".repeat(200))).is_ok());
}

#[test]
fn trap_37_fewer_read_than_write_queues_is_legal() {
    let mut config = topic("T", 8, 6);
    config.read_queue_nums = 4;
    assert!(check_topic_numbers(&config).is_ok());
    config.read_queue_nums = -1;
    assert!(
        check_topic_numbers(&config)
            .unwrap_err()
            .remark
            .contains("readQueueNums -1")
    );
    config.read_queue_nums = 4;
    config.perm = 9;
    assert!(
        check_topic_numbers(&config)
            .unwrap_err()
            .remark
            .contains("perm 9")
    );
}

#[test]
fn trap_38_unit_mode_reaches_the_sys_flag() {
    assert_eq!(sys_flag(false, "T"), 0);
    assert_eq!(sys_flag(true, "T"), 1);
    assert_eq!(sys_flag(true, "%RETRY%g"), 2);
}
