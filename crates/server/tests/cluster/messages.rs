//! Edits, deletions, reactions and threads over the network: every node folds and erases alike.

use conclave_client::api::{
    self, Consistency, Delete, Edit, Message, React, RoomKind, event, room_action::Kind, stream_frame::Frame,
};
use prost::Message as _;

use crate::harness::within;
use crate::rights::{Person, code, with_rights};

fn edit(target_seq: u64, text: &str) -> Kind {
    Kind::Edit(Edit { target_seq, text: text.to_owned() })
}

fn react(target_seq: u64, emoji: &str) -> Kind {
    Kind::React(React { target_seq, emoji: emoji.to_owned(), off: false })
}

fn delete(target_seq: u64) -> Kind {
    Kind::Delete(Delete { target_seq, reason: String::new() })
}

fn in_thread(thread_seq: u64, text: &str) -> Kind {
    Kind::Post(Message { text: text.to_owned(), thread_seq, ..Message::default() })
}

async fn history(person: &mut Person) -> api::HistoryResponse {
    let request = api::HistoryRequest {
        room: person.room(),
        consistency: Consistency::Linearizable.into(),
        ..api::HistoryRequest::default()
    };
    let request = person.raw.request(request);
    within("history", person.raw.client.history(request)).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_a_message_as_people_have_left_it() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Open).await;
    let mut bob = Person::at(&cluster, 1, "bob", "plans").await;
    let asked = ana.say("lunch at noon?").await.unwrap();
    ana.add("bob").await.unwrap();
    let edited = ana.change(edit(asked, "lunch at one?")).await.unwrap();
    bob.change(react(asked, "👍")).await.unwrap();
    assert_eq!(bob.change(react(asked, "👍")).await.unwrap(), 0, "once is enough");
    let answer = bob.change(in_thread(asked, "fine with me")).await.unwrap();
    let refused = bob.change(edit(asked, "dinner?")).await.unwrap_err();
    assert_eq!(code(&refused), "not_yours");

    for index in 0..3 {
        let mut reader = Person::at(&cluster, index, "bob", "plans").await;
        let page = history(&mut reader).await;
        let [fold] = &page.folds[..] else { panic!("{:?}", page.folds) };
        assert_eq!((fold.seq, fold.edits, fold.edited_seq), (asked, 1, edited));
        assert_eq!(fold.text, "lunch at one?");
        assert_eq!((fold.answers, fold.last_answer_seq), (1, answer));
        let [reaction] = &fold.reactions[..] else { panic!("{fold:?}") };
        assert_eq!((reaction.emoji.as_str(), reaction.count, reaction.mine), ("👍", 1, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_text_is_in_no_answer_of_any_node() {
    let mut cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Open).await;
    let said = ana.say("the first secret").await.unwrap();
    let edited = ana.change(edit(said, "the second secret")).await.unwrap();
    for number in 0..50 {
        ana.say(&format!("something else {number}")).await.unwrap();
    }
    // The nodes have the message in their files, and no longer in memory only.
    for index in 0..3 {
        cluster.stop(index).await;
        cluster.start_node(index).await;
        cluster.settled().await;
    }
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    let deleted = ana.change(delete(said)).await.unwrap();
    for index in 0..3 {
        let mut reader = Person::at(&cluster, index, "ana", "plans").await;
        let page = history(&mut reader).await;
        let bytes = page.encode_to_vec();
        assert!(!bytes.windows(6).any(|part| part == b"secret"), "node {index} shows it");
        let erased = |seq: u64| match &page.events[usize::try_from(seq).unwrap() - 1].kind {
            Some(event::Kind::Erased(erased)) => (erased.deleted_seq, erased.edit_of_seq),
            other => panic!("{other:?}"),
        };
        assert_eq!((erased(said), erased(edited)), ((deleted, 0), (deleted, said)));
        let fold = page.folds.iter().find(|fold| fold.seq == said).unwrap();
        assert_eq!((fold.deleted_seq, fold.text.as_str()), (deleted, ""));

        let mut stream = reader.follow(0).await.unwrap();
        let mut last = 0;
        while last < deleted {
            let frame = within("a frame", stream.message()).await.unwrap().unwrap();
            if let Some(Frame::Events(batch)) = frame.into_frame().unwrap().frame {
                let bytes = batch.encode_to_vec();
                assert!(!bytes.windows(6).any(|part| part == b"secret"), "node {index} streams it");
                last = batch.events.last().unwrap().seq;
            }
        }
    }
}

/// A fold tells of everything up to now, so it is not for somebody who may see only what was.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_learns_nothing_of_later_edits() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Private).await;
    let mut bob = Person::at(&cluster, 0, "bob", "plans").await;
    ana.add("bob").await.unwrap();
    let said = ana.say("we will see").await.unwrap();
    ana.change(edit(said, "we shall see")).await.unwrap();
    assert_eq!(history(&mut bob).await.folds.len(), 1);
    ana.remove("bob").await.unwrap();
    ana.change(edit(said, "we meet at noon, without bob")).await.unwrap();
    let page = history(&mut bob).await;
    assert!(page.folds.is_empty(), "{:?}", page.folds);
    let refused = bob.change(react(said, "👍")).await.unwrap_err();
    assert_eq!(code(&refused), "not_a_member");
}
