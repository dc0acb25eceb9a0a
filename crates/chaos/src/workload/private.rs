//! The clients of a private room: an owner who writes and adds and removes two users at random, and hides the past from
//! newcomers when half of the time is over; the two, who write, follow the room and read its pages at any server, members or
//! not; and a token for resuming that the owner gave to one of them. They test who gets which events.

mod follower;

use std::time::Duration;

use bytes::Bytes;
use conclave_check::History;
use conclave_client::api::{
    AddMember, Past, RemoveMember, RoomAction, RoomKind, SetPolicy, Target, room_action,
};
use conclave_client::{CallError, Client, Content, SendError, Ticket};
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::direct::Direct;
use super::{Room, Setup, WorkloadError, clients};
use follower::Follower;

/// The user who owns the room.
pub(super) const OWNER: &str = "chaos-owner";
/// The users whom the owner adds and removes.
const GUESTS: [&str; 2] = ["chaos-guest0", "chaos-guest1"];
/// Time between two requests of the owner.
const OWNER_PACE: Duration = Duration::from_millis(40);
/// Time between two requests of each of the others.
const GUEST_PACE: Duration = Duration::from_millis(150);
/// The shortest and the longest time between two changes of a user's membership, milliseconds.
const CHANGE_MS: std::ops::Range<u64> = 400..1_000;
/// The most requests that one of them has in flight.
const IN_FLIGHT: usize = 16;
/// Timeout for the cluster to reach the feature level that private rooms need.
const LEVEL_DEADLINE: Duration = Duration::from_secs(40);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Creates the room and starts its clients in `tasks`, until `stop`.
pub(super) async fn start(
    setup: &Setup<'_>,
    tasks: &mut JoinSet<Result<(), String>>,
    stop: &CancellationToken,
) -> Result<Room, WorkloadError> {
    let owner = (setup.connect)(OWNER).connect().await?;
    let room = create(&owner, format!("chaos-{}-private", setup.run), RoomKind::Private).await?;
    setup.history.private(room.id, owner.session().user_id);

    let (shared, stolen) = watch::channel(Bytes::new());
    let [of_owner, thief, follow] = [OWNER, GUESTS[0], GUESTS[1]].map(|user| follower(setup, user, &room));
    let (of_owner, thief, follow) = futures::try_join!(of_owner, thief, follow)?;
    tasks.spawn(Follower { shares: Some(shared), ..of_owner }.run(stop.clone()));
    tasks.spawn(Follower { stolen: Some(stolen), ..thief }.run(stop.clone()));
    tasks.spawn(follow.run(stop.clone()));
    for guest in GUESTS {
        let client = (setup.connect)(guest).connect().await?;
        let writer = Writer { client, room: room.clone(), history: setup.history.clone() };
        tasks.spawn(writer.run(GUEST_PACE, None, stop.clone()));
    }
    let plan = Plan::new(setup.workload.duration / 2);
    let writer = Writer { client: owner, room: room.clone(), history: setup.history.clone() };
    tasks.spawn(writer.run(OWNER_PACE, Some(plan), stop.clone()));
    Ok(room)
}

/// Creates a room. A cluster that has just started reaches the feature level of a private one soon.
pub(super) async fn create(owner: &Client, name: String, kind: RoomKind) -> Result<Room, WorkloadError> {
    let deadline = Instant::now() + LEVEL_DEADLINE;
    loop {
        match owner.create_room_of_kind(&name, kind).await {
            Ok(made) => return Ok(Room { name, id: made.room_id }),
            Err(CallError::Refused { code, .. } | CallError::Unavailable { code, .. })
                if code == "not_yet" && Instant::now() < deadline =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The follower of a user, with a session at each server.
async fn follower(setup: &Setup<'_>, user: &str, room: &Room) -> Result<Follower, WorkloadError> {
    let open = setup.servers.iter().map(|server| Direct::open(server, user, setup.dial));
    Ok(Follower {
        servers: try_join_all(open).await?,
        name: user.to_owned(),
        room: room.clone(),
        history: setup.history.clone(),
        shares: None,
        stolen: None,
    })
}

/// What the owner does when.
struct Plan {
    /// When the past is hidden; `None` once that was done.
    hides_past: Option<Instant>,
    /// For each of [`GUESTS`] whether the owner has added the user, and when that changes.
    members: [(bool, Instant); 2],
}

impl Plan {
    fn new(half: Duration) -> Self {
        let now = Instant::now();
        Self { hides_past: Some(now + half), members: [(false, now), (false, now)] }
    }

    /// The action that is due.
    fn due(&mut self) -> Option<Content> {
        let now = Instant::now();
        let kind = if self.hides_past.is_some_and(|due| due <= now) {
            self.hides_past = None;
            room_action::Kind::SetPolicy(SetPolicy { past: Past::SinceJoin.into(), ..SetPolicy::default() })
        } else {
            let (guest, (member, due)) =
                GUESTS.into_iter().zip(&mut self.members).find(|(_, (_, due))| *due <= now)?;
            *member = !*member;
            *due = now + Duration::from_millis(rand::random_range(CHANGE_MS));
            let who = Some(Target { name: guest.to_owned(), user_id: 0 });
            if *member {
                room_action::Kind::AddMember(AddMember { who, ..AddMember::default() })
            } else {
                room_action::Kind::RemoveMember(RemoveMember { who, ..RemoveMember::default() })
            }
        };
        Some(Content::Action(RoomAction { kind: Some(kind) }))
    }
}

/// Writes in the room. What somebody writes who is no member is refused, and must never appear.
struct Writer {
    client: Client,
    room: Room,
    history: History,
}

impl Writer {
    async fn run(
        self,
        pace: Duration,
        mut plan: Option<Plan>,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let mut undecided = FuturesUnordered::new();
        let session = self.client.session().id;
        let (mut due, mut no) = (Instant::now(), 1);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = undecided.next() => {}
                () = tokio::time::sleep_until(due), if undecided.len() < IN_FLIGHT => {
                    due += pace;
                    let action = plan.as_mut().and_then(Plan::due);
                    let content = action.unwrap_or_else(|| Content::Text(format!("private {session}-{no}")));
                    let (what, body) = clients::recorded(&content);
                    self.history.invoke_other(session, self.room.id, no, what, body);
                    match self.client.submit(&self.room.name, content).await {
                        Ok(ticket) => {
                            undecided.push(self.record_outcome(ticket, session, no));
                            no += 1;
                        }
                        // The client has not heard of the feature level yet; the number is not used up.
                        Err(SendError::Refused { code, .. }) if code == "not_yet" => {
                            self.history.refused(session, self.room.id, no, &code);
                        }
                        Err(error) => return Err(format!("the client library did not accept a send: {error}")),
                    }
                }
            }
        }
        while undecided.next().await.is_some() {}
        drop(undecided);
        self.client.close().await;
        Ok(())
    }

    async fn record_outcome(&self, ticket: Ticket, session: u64, no: u64) {
        clients::record_outcome(&self.history, (session, self.room.id, no), ticket).await;
    }
}
