use super::Action::{CheckHardware, Record, ResetGpu, RestartApplication, RestartMachine};
use super::*;
use crate::clock;

/// Rows of NVIDIA's table, written down apart from the list above.
#[test]
fn each_grade_is_nvidias() {
    for (codes, action) in [
        (
            &[8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 77, 80, 85, 94, 98, 105, 126, 135][..],
            RestartApplication,
        ),
        (&[46, 48, 62, 64, 74, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158], ResetGpu),
        (&[79, 151], RestartMachine),
        (&[54], CheckHardware),
        (&[14, 37, 43, 44, 45, 63, 66, 78, 92, 93, 106, 121, 137, 141, 144, 150, 154, 157, 160], Record),
        // Unused, or in no catalogue; 999 is NVML's own word for unknown.
        (&[0, 1, 12, 59, 61, 65, 90, 173, 999, u64::MAX], Record),
    ] {
        for code in codes {
            assert_eq!(Action::of(*code), action, "{code}");
        }
    }
    assert_eq!((name(79), name(65)), ("GPU has fallen off the bus", "unknown"));
    for pair in CATALOGUE.windows(2) {
        assert!(pair[0].0 <= pair[0].1 && pair[0].1 < pair[1].0, "{pair:?}");
    }
    for (number, action) in [(0, Record), (1, ResetGpu), (2, RestartMachine), (3, Record), (4, ResetGpu), (5, Record)] {
        assert_eq!(Action::of_recovery(number), action, "{number}");
    }
}

#[test]
fn grades_are_ordered_and_named_as_on_the_wire() {
    let all = [Record, RestartApplication, ResetGpu, RestartMachine, CheckHardware];
    assert!(all.is_sorted());
    // If this fails, do not change the test: only append.
    let text = r#"["record","restart_application","reset_gpu","restart_machine","check_hardware"]"#;
    assert_eq!(serde_json::to_string(&all).unwrap(), text);
    assert_eq!(postcard::to_allocvec(&all).unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn repetition_goes_as_far_as_a_reset() {
    for (grade, incidents, action) in [
        (RestartApplication, 0, RestartApplication),
        (RestartApplication, 2, RestartApplication),
        (RestartApplication, 3, ResetGpu),
        (RestartApplication, usize::MAX, ResetGpu),
        (Record, usize::MAX, Record),
        (ResetGpu, usize::MAX, ResetGpu),
        (RestartMachine, usize::MAX, RestartMachine),
        (CheckHardware, usize::MAX, CheckHardware),
    ] {
        assert_eq!(grade.escalated(incidents), action, "{grade:?} {incidents}");
    }
}

/// Seconds, number, and what `note` says of it.
fn check(rows: &[(u64, u64, Option<Action>)]) -> Xids {
    let start = clock::now();
    let mut xids = Xids::default();
    for (second, code, action) in rows {
        let answer = xids.note(*code, start + Duration::from_secs(*second));
        assert_eq!(answer, *action, "Xid {code} at {second} s");
    }
    assert!(xids.recent.len() <= REMEMBERED && xids.incidents.len() <= REPEATS, "{xids:?}");
    xids
}

#[test]
fn what_two_sources_tell_counts_once() {
    let xids = check(&[(0, 79, Some(RestartMachine)), (1, 79, None), (4, 79, None), (4, 48, Some(ResetGpu))]);
    assert_eq!((xids.count, xids.last.map(|(code, _)| code)), (2, Some(48)));
    // Five seconds from the one that counted, not from the last that did not: a steady stream is not one event for ever.
    let xids = check(&[(0, 63, Some(Record)), (4, 63, None), (5, 63, Some(Record)), (9, 63, None)]);
    assert_eq!(xids.count, 2);
}

#[test]
fn a_third_crash_within_ten_minutes_asks_for_a_reset() {
    const APP: Option<Action> = Some(RestartApplication);
    check(&[(0, 13, APP), (100, 31, APP), (599, 13, Some(ResetGpu)), (650, 13, Some(ResetGpu))]);
    // The first is too long ago.
    check(&[(0, 13, APP), (100, 13, APP), (600, 13, APP)]);
    // One crash with many numbers is one incident; what follows it does not count as another.
    check(&[(0, 13, APP), (0, 31, APP), (1, 69, APP), (1, 43, Some(Record)), (2, 45, Some(Record)), (90, 31, APP)]);
    // An Xid of another grade is judged by itself.
    check(&[(0, 13, APP), (10, 13, APP), (20, 13, Some(ResetGpu)), (21, 79, Some(RestartMachine))]);
    let start = clock::now();
    let mut xids = Xids::default();
    for second in [0, 10, 20] {
        xids.note(13, start + Duration::from_secs(second));
    }
    xids.forget_incidents();
    assert_eq!(xids.note(13, start + Duration::from_secs(30)), APP, "after a reset it starts anew");
}

#[test]
fn memory_is_bounded_and_old_events_may_count_twice() {
    let rows: Vec<_> = (1000..1020).map(|code| (0, code, Some(Record))).collect();
    let mut xids = check(&rows);
    assert_eq!(xids.count, 20);
    let (_, when) = xids.last.unwrap();
    assert_eq!((xids.note(1019, when), xids.note(1000, when)), (None, Some(Record)));
    // A source that is late by the clock of the other is no panic and no new event.
    assert_eq!(xids.note(1000, when.checked_sub(Duration::from_secs(1)).unwrap()), None);
}
