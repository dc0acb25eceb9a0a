//! Accounts and sessions: who gets in, and that nothing of a session that has ended takes effect, neither late nor again.

use std::time::Duration;

use conclave_client::api::{
    self, Consistency, JoinChatRequest, OpenSessionResponse, RoomRef, RoomSubscription, SendBatch,
};
use conclave_core::access::Powers;
use conclave_core::level::ACCOUNTS;
use conclave_core::limits::SESSIONS_OPEN_MAX;
use conclave_core::people::LogIn;
use conclave_core::record::SessionKind;
use conclave_core::{Action, Command, Origin, Refusal, Reply, RequestNo, RoomId, SessionId, UserId};
use conclave_proto::people::close_sessions_request::Which;
use conclave_proto::people::people_service_client::PeopleServiceClient;
use conclave_proto::people::{
    AcceptInviteRequest, ChangePasswordRequest, CloseSessionsRequest, ClusterRole, CreateInviteRequest,
    CreateTokenRequest, ListSessionsRequest, ListUsersRequest, LogInRequest, LogOutRequest, RegisterRequest,
    Registration, SetAccountRequest, SetRegistrationRequest, UserKind, WhoAmIRequest,
};
use conclave_proto::status::from_status;
use futures::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::harness::{Cluster, eventually, within};
use crate::lost_ack::{Raw, connect, message};
use crate::peers::decided;

type People = PeopleServiceClient<Channel>;

async fn people(cluster: &Cluster, index: usize) -> People {
    let address = format!("http://{}", cluster.members()[index].client);
    eventually("the node knows that the cluster has accounts", async || {
        let open = api::OpenSessionRequest { user: "level".into(), ..Default::default() };
        let opened = connect(cluster, index).await.open_session(open).await;
        opened.is_ok_and(|opened| opened.get_ref().feature_level >= ACCOUNTS)
    })
    .await;
    PeopleServiceClient::connect(address).await.unwrap()
}

fn code(status: &Status) -> String {
    from_status(status).code
}

/// The request of a session.
fn of<T>(session: &OpenSessionResponse, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {}", session.token).parse().unwrap());
    request
}

fn password(text: &str) -> String {
    format!("correct horse {text}")
}

async fn register(people: &mut People, name: &str) -> Result<OpenSessionResponse, Status> {
    let request = RegisterRequest { name: name.into(), password: password(name), ..Default::default() };
    Ok(people.register(request).await?.into_inner().session.unwrap())
}

async fn log_in(people: &mut People, name: &str, password: String) -> Result<OpenSessionResponse, Status> {
    let request = LogInRequest { name: name.into(), password, ..Default::default() };
    Ok(people.log_in(request).await?.into_inner().session.unwrap())
}

fn close(which: Which) -> CloseSessionsRequest {
    CloseSessionsRequest { which: Some(which) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_password_opens_to_nobody_without_it() {
    let cluster = Cluster::start().await;
    let mut at: Vec<People> = Vec::new();
    for index in 0..3 {
        at.push(people(&cluster, index).await);
    }
    let first = register(&mut at[0], "ana").await.unwrap();
    assert_eq!(code(&register(&mut at[1], "ana").await.unwrap_err()), "name_taken");
    assert_eq!(code(&register(&mut at[1], "a-na").await.unwrap_err()), "name_looks_alike");
    assert_eq!(code(&register(&mut at[1], "adm1n").await.unwrap_err()), "name_reserved");
    let second = log_in(&mut at[1], "ana", password("ana")).await.unwrap();
    assert_ne!(first.session_id, second.session_id);
    for (name, wrong) in [("ana", password("bo")), ("nobody-yet", password("ana"))] {
        assert_eq!(code(&log_in(&mut at[2], name, wrong).await.unwrap_err()), "wrong_password");
    }
    // A client of an earlier version, which knows of no passwords, gets a sentence that says what to do.
    for index in 0..3 {
        eventually("the node knows of the account", async || {
            let open = api::OpenSessionRequest { user: "ana".into(), ..Default::default() };
            let refused = connect(&cluster, index).await.open_session(open).await;
            refused.is_err_and(|refused| {
                code(&refused) == "login_required" && refused.message().contains("log in with it")
            })
        })
        .await;
    }
    let reading = api::OpenSessionRequest { user: "ana".into(), reads_only: true, ..Default::default() };
    let refused = connect(&cluster, 0).await.open_session(reading.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "login_required");
    // Its user reads with the session that the log-in opened.
    assert!(connect(&cluster, 0).await.open_session(of(&first, reading)).await.is_err());
    // Both sessions write, on every node.
    for (index, session) in [(0, &second), (1, &first), (2, &second)] {
        let mut raw = Raw::with(&cluster, index, session).await;
        raw.send("general", if index == 2 { 2 } else { 1 }, "hello").await.unwrap();
    }
    let listed = at[2].list_users(of(&first, ListUsersRequest { prefix: "an".into(), ..Default::default() }));
    let listed = listed.await.unwrap().into_inner();
    assert_eq!(
        listed.users.iter().map(|user| (user.name.as_str(), user.claimed)).collect::<Vec<_>>(),
        [("ana", true)]
    );

    // A changed password ends the other sessions, if the user wants it. The earlier one opens nothing.
    let change = |old: &str, close_others| ChangePasswordRequest {
        old_password: old.to_owned(),
        new_password: password("new"),
        close_others,
        user: String::new(),
    };
    let wrong = at[0].change_password(of(&first, change("wrong password", true))).await.unwrap_err();
    assert_eq!(code(&wrong), "wrong_password");
    at[0].change_password(of(&first, change(&password("ana"), true))).await.unwrap();
    assert_eq!(code(&log_in(&mut at[1], "ana", password("ana")).await.unwrap_err()), "wrong_password");
    let me = at[0].who_am_i(of(&first, WhoAmIRequest {})).await.unwrap().into_inner();
    assert!(me.session.unwrap().current && me.user.unwrap().claimed);
    for people in &mut at {
        eventually("the other session has ended here", async || {
            people.who_am_i(of(&second, WhoAmIRequest {})).await.is_err()
        })
        .await;
    }
    // The password was checked before it was changed.
    let stale = Command::LogIn(LogIn {
        user: UserId(first.user_id),
        credential_revision: 1,
        secret_digest: [7; 16],
        kind: SessionKind::Login,
        label: String::new(),
        client: String::new(),
        expires_ms: 0,
    });
    let stale = within("a decision", decided(&cluster, 0, &stale)).await;
    assert_eq!(stale, Ok(Reply::Refused(Refusal::CredentialsChanged)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_sets_a_first_password_keeps_the_name() {
    let cluster = Cluster::start().await;
    let mut people = people(&cluster, 0).await;
    let mut mine = Raw::connect(&cluster, 0, "una").await;
    let other = Raw::connect(&cluster, 1, "una").await;
    let claim = ChangePasswordRequest { new_password: password("una"), ..Default::default() };
    people.change_password(mine.request(claim)).await.unwrap();
    mine.send("general", 1, "still here").await.unwrap();
    for index in 0..3 {
        let mut other = other.moved(&cluster, index).await;
        eventually("who used the name without a password is gone", async || {
            other.send("general", 1, "me, too").await.is_err()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_makes_as_many_accounts_as_it_says_and_admins_decide() {
    let cluster = Cluster::start().await;
    let mut one = people(&cluster, 0).await;
    let mut two = people(&cluster, 1).await;
    // Without a token this machine's operators have the power of an admin.
    let closed = SetRegistrationRequest { registration: Registration::Invite.into() };
    one.set_registration(closed).await.unwrap();
    let invite = one.create_invite(CreateInviteRequest::default()).await.unwrap().into_inner();
    let accept = |name: &str, invite: &str| AcceptInviteRequest {
        invite: invite.to_owned(),
        name: name.to_owned(),
        password: password(name),
        ..Default::default()
    };
    let (bo, kim) = tokio::join!(
        one.accept_invite(accept("bo", &invite.invite)),
        two.accept_invite(accept("kim", &invite.invite))
    );
    let refused: Vec<_> =
        [&bo, &kim].into_iter().filter_map(|answer| answer.as_ref().err()).map(code).collect();
    assert_eq!(refused, ["invite_invalid"]);
    let guest = bo.or(kim).unwrap().into_inner().session.unwrap();
    // Nobody else gets in, and an account is no admin.
    let open = api::OpenSessionRequest { user: "eva".into(), ..Default::default() };
    for index in 0..3 {
        eventually("the node knows the mode", async || {
            let refused = connect(&cluster, index).await.open_session(open.clone()).await;
            refused.is_err_and(|refused| code(&refused) == "login_required")
        })
        .await;
    }
    assert_eq!(code(&register(&mut one, "eva").await.unwrap_err()), "registration_closed");
    let refused = one.create_invite(of(&guest, CreateInviteRequest::default())).await.unwrap_err();
    assert_eq!(code(&refused), "not_admin");

    // An invite for one name, by an admin.
    let ada =
        CreateInviteRequest { name: "ada".into(), role: ClusterRole::Admin.into(), ..Default::default() };
    let ada = one.create_invite(ada).await.unwrap().into_inner();
    assert_eq!(code(&two.accept_invite(accept("eva", &ada.invite)).await.unwrap_err()), "invite_invalid");
    let mut mistyped = ada.invite.clone();
    mistyped.replace_range(9..10, if mistyped.as_bytes()[9] == b'0' { "1" } else { "0" });
    assert_eq!(code(&two.accept_invite(accept("ada", &mistyped)).await.unwrap_err()), "invite_invalid");
    let admin = two.accept_invite(accept("", &ada.invite)).await.unwrap().into_inner().session.unwrap();
    assert_eq!(admin.user, "ada");
    let bot = SetAccountRequest { name: "ci".into(), kind: Some(UserKind::Bot.into()), ..Default::default() };
    two.set_account(of(&admin, bot)).await.unwrap();
    let token = CreateTokenRequest { user: "ci".into(), label: "build".into(), ..Default::default() };
    let token = two.create_token(of(&admin, token)).await.unwrap().into_inner().session.unwrap();
    Raw::with(&cluster, 2, &token).await.send("general", 1, "built").await.unwrap();
    // The last admin stays one; a disabled account is out.
    let disable =
        |name: &str| SetAccountRequest { name: name.into(), disabled: Some(true), ..Default::default() };
    assert_eq!(code(&two.set_account(of(&admin, disable("ada"))).await.unwrap_err()), "last_admin");
    two.set_account(of(&admin, disable(&guest.user))).await.unwrap();
    let refused = log_in(&mut two, &guest.user, password(&guest.user)).await.unwrap_err();
    assert_eq!(code(&refused), "user_disabled");
}

/// Follows a room until the stream ends, and returns why.
async fn follow_to_the_end(raw: &mut Raw) -> Status {
    let general = RoomRef { name: "general".into(), id: 0 };
    let rooms = vec![RoomSubscription { room: Some(general), ..Default::default() }];
    let request = raw.request(JoinChatRequest { rooms, ..Default::default() });
    let mut frames = raw.client.join_chat(request).await.unwrap().into_inner();
    loop {
        match frames.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => return status,
        }
    }
}

/// Sends on a stream until it ends, and returns why.
async fn send_to_the_end(raw: &mut Raw) -> Status {
    let batches = futures::stream::iter([SendBatch { sends: vec![message("general", 1, "once")] }]);
    let request = raw.request(batches.chain(futures::stream::pending()));
    let mut results = raw.client.send_messages(request).await.unwrap().into_inner();
    loop {
        match results.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => return status,
        }
    }
}

/// What a gateway that has not heard of the end would pass on.
fn act(session: &OpenSessionResponse, room: u64, request: u64, text: &str) -> Command {
    let origin = Origin {
        session: SessionId(session.session_id),
        author: UserId(session.user_id),
        author_name: session.user.clone(),
        request: RequestNo(request),
        settled: RequestNo(0),
        powers: Powers::default(),
    };
    Command::Act { room: RoomId(room), origin, action: Action::Post(text.to_owned()) }
}

/// Whether the shard has refused the request, or its leader knows that the session is no more.
fn is_refused(decided: &Result<Reply, String>) -> bool {
    match decided {
        Ok(reply) => *reply == Reply::Refused(Refusal::SessionEnded),
        Err(code) => code == "session_not_applied",
    }
}

async fn said(cluster: &Cluster, session: &OpenSessionResponse) -> Vec<(u64, u64)> {
    let mut raw = Raw::connect(cluster, 0, "reader").await;
    let request = raw.request(api::HistoryRequest {
        room: Some(RoomRef { name: "general".into(), id: 0 }),
        limit: 1_000,
        consistency: Consistency::Linearizable.into(),
        ..Default::default()
    });
    let history = raw.client.history(request).await.unwrap().into_inner();
    let own = history.events.iter().filter(|event| event.session_id == session.session_id);
    // The joining before the first message has no number.
    own.filter(|event| event.request_no != 0).map(|event| (event.seq, event.request_no)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_closed_session_end_everywhere_and_its_requests_are_not_decided_twice() {
    let cluster = Cluster::start().await;
    let mut people = people(&cluster, 0).await;
    let keeps = register(&mut people, "ana").await.unwrap();
    let ends = log_in(&mut people, "ana", password("ana")).await.unwrap();
    let mut streams = Vec::new();
    for index in 0..3 {
        let mut follows = Raw::with(&cluster, index, &ends).await;
        let mut sends = Raw::with(&cluster, index, &ends).await;
        streams.push(tokio::spawn(async move { follow_to_the_end(&mut follows).await }));
        streams.push(tokio::spawn(async move { send_to_the_end(&mut sends).await }));
    }
    eventually("the streams are there", async || {
        for index in 0..3 {
            if cluster.metric(index, "conclave_streams").await < 1.0 || said(&cluster, &ends).await.is_empty()
            {
                return false;
            }
        }
        true
    })
    .await;
    let once = said(&cluster, &ends).await;
    assert_eq!(once.len(), 1, "three copies of one request");
    people.close_sessions(of(&keeps, close(Which::Others(true)))).await.unwrap();
    for stream in streams {
        let ended = within("the stream ends", stream).await.unwrap();
        assert_eq!(code(&ended), "session_ended", "{ended}");
    }
    for index in 0..3 {
        let mut raw = Raw::with(&cluster, index, &ends).await;
        eventually("the node takes nothing more", async || {
            let refused = raw.send("general", 1, "once").await.unwrap_err();
            ["session_ended", "session_unknown"].contains(&code(&refused).as_str())
        })
        .await;
    }
    // Every shard knows in the end, and the session is forgotten.
    let client = cluster.client("reader").await;
    let rooms = client.all_rooms().await.unwrap();
    let general = rooms.iter().find(|room| room.name == "general").unwrap();
    eventually("the shard refuses what a gateway passes on", async || {
        is_refused(&decided(&cluster, general.shard, &act(&ends, general.id, 1, "once")).await)
    })
    .await;
    let late = decided(&cluster, general.shard, &act(&ends, general.id, 2, "late")).await;
    assert!(is_refused(&late), "{late:?}");
    eventually("the session is forgotten", async || {
        let refused = Raw::with(&cluster, 1, &ends).await.send("general", 1, "once").await.unwrap_err();
        code(&refused) == "session_unknown"
    })
    .await;
    assert_eq!(said(&cluster, &ends).await, once);
    let listed = people.list_sessions(of(&keeps, ListSessionsRequest::default())).await.unwrap().into_inner();
    let listed: Vec<_> =
        listed.sessions.iter().map(|session| (session.session_id, session.current)).collect();
    assert_eq!(listed, [(keeps.session_id, true)]);
    people.log_out(of(&keeps, LogOutRequest {})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_meta_leader_tells_the_shards_what_the_last_one_did_not() {
    let mut cluster = Cluster::start().await;
    let mut people = people(&cluster, 0).await;
    let keeps = register(&mut people, "ana").await.unwrap();
    let ends = log_in(&mut people, "ana", password("ana")).await.unwrap();
    let first = Raw::with(&cluster, 0, &ends).await.send("general", 1, "once").await.unwrap();
    let client = cluster.client("reader").await;
    let rooms = client.all_rooms().await.unwrap();
    let general = rooms.iter().find(|room| room.name == "general").unwrap();
    let leader = cluster.leader_of(0).await;
    people.close_sessions(of(&keeps, close(Which::SessionId(ends.session_id)))).await.unwrap();
    cluster.kill(leader);
    eventually("the shard refuses what a gateway passes on", async || {
        is_refused(&decided(&cluster, general.shard, &act(&ends, general.id, 1, "once")).await)
    })
    .await;
    cluster.start_node(leader).await;
    cluster.settled().await;
    for index in 0..3 {
        eventually("the session is forgotten", async || {
            let refused =
                Raw::with(&cluster, index, &ends).await.send("general", 1, "once").await.unwrap_err();
            code(&refused) == "session_unknown"
        })
        .await;
    }
    assert_eq!(said(&cluster, &ends).await, [(first.seq, 1)]);
}

/// The meta shard's leader looks for sessions that time has ended in a fixed number of rounds, in each of which it also ends
/// what was closed.
#[tokio::test(flavor = "multi_thread")]
async fn one_clock_that_is_a_year_ahead_ends_no_session() {
    const ROUNDS: usize = 12;
    let cluster = Cluster::start().await;
    let leader = cluster.leader_of(0).await;
    let other = (leader + 1) % 3;
    let mut people = people(&cluster, other).await;
    let keeps = register(&mut people, "ana").await.unwrap();
    let token = CreateTokenRequest { expires_in_ms: 30 * 86_400_000, ..Default::default() };
    let token = people.create_token(of(&keeps, token)).await.unwrap().into_inner().session.unwrap();
    cluster.clock(leader).set_offset_ms(365 * 86_400_000);
    for _ in 0..ROUNDS {
        let closed = log_in(&mut people, "ana", password("ana")).await.unwrap();
        people.close_sessions(of(&keeps, close(Which::SessionId(closed.session_id)))).await.unwrap();
        eventually("a round has ended", async || {
            let late = Raw::with(&cluster, other, &closed).await.send("general", 1, "late").await;
            // The node may take one message until it knows of the closing.
            late.is_err_and(|refused| code(&refused) == "session_unknown")
        })
        .await;
    }
    Raw::with(&cluster, other, &token).await.send("general", 1, "still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_never_locked_out_by_the_number_of_sessions() {
    let cluster = Cluster::start().await;
    let mut people = people(&cluster, 0).await;
    let mut first = Raw::connect(&cluster, 0, "ana").await;
    first.send("general", 1, "first").await.unwrap();
    let open = |_| async {
        let mut client = connect(&cluster, 0).await;
        let open = api::OpenSessionRequest { user: "ana".into(), ..Default::default() };
        client.open_session(open).await.unwrap().into_inner()
    };
    let sessions: Vec<_> =
        futures::stream::iter(0..SESSIONS_OPEN_MAX).map(open).buffer_unordered(32).collect().await;
    let last = sessions.last().unwrap();
    eventually("the session that was not seen for longest has ended", async || {
        first.send("general", 2, "late").await.is_err()
    })
    .await;
    Raw::with(&cluster, 1, last).await.send("general", 1, "last").await.unwrap();
    let listed = people.list_sessions(of(last, ListSessionsRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.sessions.len(), SESSIONS_OPEN_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_it_expires() {
    let cluster = Cluster::start().await;
    let mut people = people(&cluster, 0).await;
    let keeps = register(&mut people, "ana").await.unwrap();
    let token = CreateTokenRequest { expires_in_ms: 3_600_000, ..Default::default() };
    let token = people.create_token(of(&keeps, token)).await.unwrap().into_inner().session.unwrap();
    let first = Raw::with(&cluster, 1, &token).await.send("general", 1, "in time").await.unwrap();
    let offset = i64::try_from(Duration::from_hours(2).as_millis()).unwrap();
    (0..3).for_each(|index| cluster.clock(index).set_offset_ms(offset));
    for index in 0..3 {
        let refused = Raw::with(&cluster, index, &token).await.send("general", 2, "late").await.unwrap_err();
        assert!(["session_ended", "session_unknown"].contains(&code(&refused).as_str()), "{refused}");
    }
    eventually("the session is forgotten", async || {
        let refused = Raw::with(&cluster, 1, &token).await.send("general", 2, "late").await.unwrap_err();
        code(&refused) == "session_unknown"
    })
    .await;
    assert_eq!(said(&cluster, &token).await, [(first.seq, 1)]);
    people.who_am_i(of(&keeps, WhoAmIRequest {})).await.unwrap();
}
