//! DECIDE in a store that loses requests and answers, and beside other processes.

use super::*;
use crate::checkpoint::next::{claim_record, first_record};
use crate::checkpoint::testing::{author, chain, empty_cut};
use crate::env::clock::ManualClock;
use crate::env::store::Location;
use crate::env::store::testing::{Fault, Hostile, Op};
use std::cell::RefCell;

fn records(from: u64, to: u64) -> Vec<Record> {
    let mut all = vec![first_record(chain("a"), "fleet", author("1"))];
    for epoch in 2..=to {
        let next = next_record(&all[all.len() - 1], author(&format!("own-{epoch}")), empty_cut(epoch - 1));
        all.push(next);
    }
    all.split_off(from as usize - 1)
}

async fn with(location: Location, records: &[Record]) -> Chain {
    let chain = Chain { location };
    for record in records {
        chain.create(record).await.unwrap();
    }
    chain
}

/// `write_record` on a clock that jumps to whatever is waited for.
async fn write(chain: &Chain, record: &Record, trouble: impl Fn(&str)) -> Result<()> {
    let manual = ManualClock::starting_at(0);
    let clock = Clock::Manual(manual.clone());
    let jumping = async {
        loop {
            if let Some(at) = manual.next_deadline_us() {
                manual.advance_to(at);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        written = write_record(chain, record, &clock, trouble) => written,
        _ = jumping => unreachable!("it never ends"),
    }
}

/// The same epoch by somebody else.
fn of_another(record: &Record) -> Record {
    Record { attempt: "theirs".into(), owner: "there/7/0".into(), incarnation: 9, ..record.clone() }
}

async fn attempt_of(chain: &Chain, epoch: u64) -> Option<String> {
    chain.read(Epoch(epoch)).await.unwrap().map(|read| read.unwrap().attempt)
}

#[tokio::test]
async fn lost_requests_and_answers_end_in_one_record_of_ours() {
    let all = records(1, 3);
    let path = record_path(Epoch(3));
    let put = |fault| (Op::Put, fault);
    let get = (Op::Get, Fault::Before);
    for (what, faults, waits) in [
        ("nothing fails", vec![], 0),
        ("the request is lost", vec![put(Fault::Before)], 1),
        ("the answer is lost", vec![put(Fault::AfterLanding)], 0),
        ("the answer is lost, and then the reading back", vec![put(Fault::AfterLanding), get], 1),
        ("requests are lost again and again", vec![put(Fault::Before); 5], 5),
        ("everything at once", vec![put(Fault::Before), get, put(Fault::AfterLanding), get], 2),
    ] {
        let (store, location) = Hostile::location();
        let chain = with(location, &all[..2]).await;
        for (op, fault) in faults {
            store.strike(op, &path, fault);
        }
        let told = RefCell::new(0);
        write(&chain, &all[2], |_| *told.borrow_mut() += 1).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!((*told.borrow(), store.waiting()), (waits, 0), "{what}");
        assert_eq!(attempt_of(&chain, 3).await.as_deref(), Some("own-3"), "{what}");
    }
}

#[tokio::test]
async fn whoever_comes_second_is_fenced_and_says_by_whom() {
    let all = records(1, 3);
    for (what, fault) in
        [("a clear answer", None), ("a lost one", Some(Fault::Before)), ("both", Some(Fault::AfterLanding))]
    {
        let (store, location) = Hostile::location();
        let chain = with(location, &all[..2]).await;
        chain.create(&of_another(&all[2])).await.unwrap();
        if let Some(fault) = fault {
            store.strike(Op::Put, &record_path(Epoch(3)), fault);
        }
        let error = write(&chain, &all[2], |_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Fenced(_)), "{what}: {error}");
        let text = error.to_string();
        assert!(text.contains("record 3") && text.contains("there/7/0 (incarnation 9)"), "{what}: {text}");
        assert_eq!(attempt_of(&chain, 3).await.as_deref(), Some("theirs"), "{what}: I8, theirs stands");
    }
    // Two starts at once on one head: one claim.
    let chain = with(Location::in_memory(), &all[..2]).await;
    let ours = claim_record(&all[1], author("ours"), vec![]);
    let theirs = of_another(&ours);
    let both = tokio::join!(write(&chain, &ours, |_| {}), write(&chain, &theirs, |_| {}));
    assert!(matches!(both, (Ok(()), Err(Error::Fenced(_))) | (Err(Error::Fenced(_)), Ok(()))), "{both:?}");
}

/// A process that stood still while another went on and cleaned up: the name of its next record is free again.
#[tokio::test]
async fn a_name_that_was_cleaned_up_decides_nothing() {
    let all = records(1, 50);
    for late in [1, 2, 3, 40, 47] {
        let chain = with(Location::in_memory(), &all[47..]).await;
        let error = write(&chain, &of_another(&all[late - 1]), |_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Fenced(_)) && error.to_string().contains("gone on to record 50"), "{error}");
        let left: Vec<u64> = chain.epochs().await.unwrap().iter().map(|e| e.0).collect();
        assert_eq!(left, [48, 49, 50], "late by {late}: the chain is as it was");
    }
    let chain = with(Location::in_memory(), &[]).await;
    write(&chain, &all[0], |_| {}).await.expect("the first record of a chain has no parent");
    let vanished = with(Location::in_memory(), &all[..1]).await;
    let error = write(&vanished, &all[2], |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("record 2 has vanished"), "{error}");
}
