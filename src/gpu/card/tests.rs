use super::*;
use crate::gpu::plan::tests::{card as device, sample};
use crate::gpu::wire::Sample;
use crate::gpu::xid::Action;

fn ours() -> Record {
    serde_json::from_str(r#"{"ours":true}"#).unwrap()
}

fn seen(record: Record) -> Card {
    let mut card = Card::new(device().pci);
    card.listed(device(), record);
    card
}

fn sampled() -> Sample {
    sample(1_500, 50, 0)
}

#[test]
fn fans_are_given_back_until_it_is_known_to_be_done() {
    let half = Duty::from_percent(50);
    let mut card = seen(Record::default());
    assert_eq!(card.drive(None), None, "somebody else's fans are not touched");
    assert_eq!(card.drive(half), Some(half));
    card.told(Answer::Set(Ok(())));
    assert_eq!(card.drive(None), Some(None));
    card.told(Answer::Set(Err(Code::UNKNOWN)));
    assert_eq!(card.drive(None), Some(None), "it was not done");
    card.told(Answer::Set(Ok(())));
    assert_eq!(card.drive(None), None);
    // A helper that was killed over driven fans, and one before this agent.
    assert_eq!(card.drive(half), Some(half));
    card.lose(Missing::Bus);
    card.listed(device(), Record::default());
    assert_eq!(card.drive(None), Some(None));
    assert_eq!(seen(ours()).drive(None), Some(None));
    let mut passive = seen(ours());
    assert_eq!(passive.drive(None), Some(None));
    passive.told(Answer::Set(Err(Code::NOT_SUPPORTED)));
    assert_eq!(passive.drive(None), None, "a card without fans has none to give back");
}

#[test]
fn a_gpu_that_is_left_alone_stays_alone_and_gets_its_fans_back_once() {
    let mut card = seen(Record::default());
    let half = Duty::from_percent(50);
    assert_eq!(card.drive(half), Some(half));
    card.turn(Presence::Hung);
    // The kernel's log and the bus say it too, and the next helper still lists it.
    card.turn(Presence::Lost);
    card.listed(device(), Record::default());
    assert_eq!(card.now.presence, Presence::Hung);
    assert_eq!((card.drive(half), card.drive(half)), (Some(None), None), "one attempt, which may hang as well");
    let escalates = |card: &mut Card| {
        let began = now();
        let xid = |at| card.xid(31, began + Duration::from_secs(at));
        [0, 60, 120].map(xid).last().copied().flatten()
    };
    assert_eq!((escalates(&mut card), card.xids.count), (Some(Action::ResetGpu), 3));
    card.forgive();
    assert_eq!(
        card.xid(31, now() + Duration::from_secs(180)),
        Some(Action::RestartApplication),
        "it may have been reset"
    );
    assert_eq!(card.now.presence, Presence::Unseen);
    card.listed(device(), Record::default());
    assert_eq!(card.now.presence, Presence::Seen);
    let mut never = seen(Record::default());
    never.turn(Presence::Hung);
    assert_eq!(never.drive(None), None);
}

#[test]
fn a_gpu_is_lost_where_its_handle_outlives_it() {
    for (temperature, power, presence) in [
        (Err(Code::GPU_IS_LOST), Err(Code::GPU_IS_LOST), Presence::Lost),
        (Err(Code::NOT_SUPPORTED), Err(Code::GPU_IS_LOST), Presence::Lost),
        (Err(Code::NOT_SUPPORTED), Err(Code::NOT_SUPPORTED), Presence::Seen),
    ] {
        let mut card = seen(Record::default());
        card.told(Answer::Sample(Ok(Box::new(Sample { temperature, power, ..sampled() }))));
        assert_eq!(card.now.presence, presence, "{temperature:?} {power:?}");
        assert_eq!(card.now.sample.is_ok(), presence == Presence::Seen);
    }
}

#[test]
fn another_card_in_the_slot_begins_anew() {
    let mut card = seen(ours());
    card.told(Answer::Sample(Ok(Box::new(Sample { pcie_width: Ok(16), ..sampled() }))));
    assert_eq!(card.xid(79, now()), Some(Action::of(79)));
    card.turn(Presence::Hung);
    let other = Device { uuid: "GPU-other".to_owned(), ..device() };
    card.listed(other, Record::default());
    assert_eq!((card.now.presence, card.now.widest, card.now.xids), (Presence::Seen, None, 0));
    assert!(!card.record().ours() && card.drive(None).is_none());
}

#[test]
fn one_that_does_not_answer_is_asked_again_ever_more_rarely() {
    let (mut card, start) = (Card::new(device().pci), now());
    card.turn(Presence::Unlisted);
    let asked: Vec<u64> = (0..=1_000).filter(|second| card.may_look(start + Duration::from_secs(*second))).collect();
    assert_eq!(asked, [30, 90, 210, 450, 930]);
    card.turn(Presence::Seen);
    assert!(!card.may_look(start + Duration::from_secs(100_000)));
}
