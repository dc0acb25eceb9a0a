//! Accounts from the command line: invites, log-ins, sessions, passwords and tokens.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ran, Up, finish, lines_of, run, signal, until, until_says};

const PASSWORD: &[u8] = b"correct horse\n";

/// Somebody with a state directory of their own, and a name that only a log-in gives.
struct Person<'a> {
    up: &'a Up,
    state: PathBuf,
}

impl<'a> Person<'a> {
    fn new(up: &'a Up, scratch: &Path, name: &str) -> Self {
        Self { up, state: scratch.join(name) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.up.command(args);
        command.env("CONCLAVE_STATE_DIR", &self.state).env_remove("CONCLAVE_USER").env("USER", "stranger");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args), b"")
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        run(&mut self.command(args), input)
    }

    fn log_in(&self, name: &str) {
        self.feed(&["login", name, "--password-stdin"], PASSWORD).expect(0);
    }

    /// The directory of the cluster in the state directory.
    fn cluster(&self) -> PathBuf {
        self.state.join(self.up.ready["cluster_id"].as_str().unwrap())
    }
}

/// The link of an invite that the operator makes, who has the cluster's admin token.
fn link(up: &Up, args: &[&str]) -> String {
    let made = up.run(&[&["invite", "--link"], args].concat()).expect(0).out.trim().to_owned();
    assert!(made.starts_with("conclave://"), "{made}");
    made
}

/// Invites somebody, who joins.
fn joined<'a>(up: &'a Up, scratch: &Path, name: &str, args: &[&str]) -> Person<'a> {
    let person = Person::new(up, scratch, name);
    let link = link(up, &[&[name], args].concat());
    person.feed(&["join", &link, "--password-stdin"], PASSWORD).expect(0);
    person
}

fn small(scratch: &Path) -> Up {
    Up::ephemeral(scratch, &["--shards", "2", "--nodes", "1"])
}

fn said(up: &Up) -> Vec<Value> {
    let history = run(
        up.command(&["history", "general", "--json", "--linearizable"]).env("CONCLAVE_USER", "watcher"),
        b"",
    );
    let messages = history.json().into_iter().filter(|event| event["kind"] == "message");
    messages.map(|event| event["body"].clone()).collect()
}

#[test]
fn an_admin_claims_the_cluster_and_invites_somebody_who_writes() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2"]);
    let ada = joined(&up, scratch.path(), "ada", &["--role", "admin"]);
    let me = &ada.run(&["whoami", "--json"]).expect(0).json()[0];
    assert_eq!((&me["user"], &me["role"], &me["logged_in"]), (&"ada".into(), &"admin".into(), &true.into()));
    assert!(ada.run(&["whoami"]).expect(0).out.starts_with("ada (person, admin) in the cluster "));
    let open = &ada.run(&["admin", "registration", "--json"]).expect(0).json()[0];
    assert_eq!(open["registration"], "open");

    // An admin needs no admin token, and prints what the other one types.
    let said_to_bob = ada.run(&["invite", "bob"]).expect(0).out;
    let link = said_to_bob.trim().strip_prefix("conclave join '").unwrap().strip_suffix('\'').unwrap();
    let invite = &ada.run(&["invite", "--uses", "2", "--expires", "1d", "--json"]).expect(0).json()[0];
    assert!(invite["link"].as_str().unwrap().contains("#cni1_") && invite["uses"] == 2, "{invite}");
    let bob = Person::new(&up, scratch.path(), "bob");
    let joined = bob.feed(&["join", link, "--password-stdin", "--json"], PASSWORD).expect(0);
    assert_eq!(joined.json()[0]["user"], "bob");
    bob.run(&["send", "general", "here I am"]).expect(0);
    let event = bob.run(&["history", "general", "-n", "1", "--json"]).expect(0).json();
    assert_eq!((&event[0]["from"], &event[0]["body"]), (&"bob".into(), &"here I am".into()));
    let login = bob.cluster().join("bob/.login");
    assert_eq!(fs::metadata(&login).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(bob.cluster().join(".user")).unwrap(), "bob\n");
    let current = fs::read_to_string(bob.state.join("current-cluster")).unwrap();
    assert_eq!(Value::from(current.trim()), up.ready["cluster_id"]);

    // Nobody else gets in under the name, to write or to read.
    let eve = Person::new(&up, scratch.path(), "eve");
    for args in [&["send", "general", "I am bob"][..], &["tail", "general", "--no-follow"]] {
        let refused = run(eve.command(args).env("CONCLAVE_USER", "bob"), b"").expect(3);
        assert!(refused.err.contains("conclave login bob"), "{refused:#?}");
    }
    let wrong = eve.feed(&["login", "bob", "--password-stdin", "--json"], b"wrong horse\n").expect(3);
    assert!(wrong.err.contains("\"error\":\"wrong_password\"") && !wrong.err.contains("horse"), "{wrong:#?}");
    let again = eve.feed(&["join", link, "--password-stdin"], PASSWORD).expect(4);
    assert!(again.err.contains("ask for a new invite") && !again.err.contains("cni1_"), "{again:#?}");
    let forbidden = bob.run(&["invite", "eve"]).expect(4);
    assert!(forbidden.err.contains("only admins"), "{forbidden:#?}");
    assert!(eve.run(&["invite", "eve"]).expect(3).err.contains("only admins of the cluster may do this"));

    let users = ada.run(&["users", "--json"]).expect(0).json();
    let claimed = users.iter().filter(|user| user["claimed"] == true).map(|user| &user["user"]);
    assert_eq!(claimed.collect::<Vec<_>>(), ["ada", "bob"]);
    assert_eq!(ada.run(&["users", "bo"]).expect(0).lines().len(), 2);
    up.stop();
}

#[test]
fn closing_the_other_sessions_ends_what_runs_with_them() {
    let scratch = tempfile::tempdir().unwrap();
    let up = small(scratch.path());
    let ana = joined(&up, scratch.path(), "ana", &[]);
    let phone = Person::new(&up, scratch.path(), "phone");
    phone.feed(&["login", "ana", "--password-stdin", "--label", "phone"], PASSWORD).expect(0);
    phone.run(&["send", "general", "from the phone"]).expect(0);
    let mut tail = phone.command(&["tail", "general"]).spawn().unwrap();
    let printed = lines_of(tail.stdout.take().unwrap());
    assert!(printed.recv_timeout(crate::harness::DEADLINE).is_ok(), "it follows");

    let sessions = ana.run(&["sessions", "--json"]).expect(0).json();
    let kinds: Vec<_> = sessions.iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["login", "login", "token"]);
    let current: Vec<_> = sessions.iter().map(|one| one["current"] == true).collect();
    assert_eq!(current, [true, false, false]);
    assert_eq!(sessions[1]["label"], "phone");
    let shown = ana.run(&["sessions"]).expect(0);
    assert!(shown.out.contains("*  login") && shown.out.contains("outbox of conclave-cli"), "{shown:#?}");

    ana.run(&["sessions", "close", "others"]).expect(0);
    let ended = finish(tail).expect(3);
    assert!(ended.err.contains("conclave login ana"), "{ended:#?}");
    let refused = phone.run(&["send", "general", "again"]).expect(3);
    assert!(refused.err.contains("conclave login ana"), "{refused:#?}");
    phone.run(&["whoami"]).expect(3);
    phone.log_in("ana");
    phone.run(&["send", "general", "back"]).expect(0);

    // One session by its number: the outbox gets another one, and nobody has to do anything.
    let sessions = phone.run(&["sessions", "--json"]).expect(0).json();
    let outbox = sessions.iter().find(|one| one["kind"] == "token").unwrap()["session_id"].to_string();
    phone.run(&["sessions", "close", &outbox]).expect(0);
    assert!(phone.run(&["sessions", "close", "999999"]).expect(4).err.contains("no open session"));
    phone.run(&["send", "general", "still here"]).expect(0);
    assert_eq!(said(&up), ["from the phone", "back", "still here"]);
    up.stop();
}

#[test]
fn passwords_change_and_log_outs_end_everything_of_a_machine() {
    let scratch = tempfile::tempdir().unwrap();
    let up = small(scratch.path());
    let ana = joined(&up, scratch.path(), "ana", &[]);
    ana.run(&["send", "general", "one"]).expect(0);
    let wrong = ana.feed(&["passwd", "--password-stdin"], b"no such horse\nnew password\n").expect(3);
    assert!(wrong.err.contains("wrong name or password"), "{wrong:#?}");
    let short = ana.feed(&["passwd", "--password-stdin"], b"correct horse\nshort\n").expect(1);
    assert!(short.err.contains("8 to 1024 bytes") && !short.err.contains("short"), "{short:#?}");
    let changed = ana
        .feed(&["passwd", "--close-others", "--password-stdin", "--json"], b"correct horse\nnew password\n");
    assert_eq!(changed.expect(0).json()[0]["user"], "ana");
    ana.run(&["send", "general", "two"]).expect(0);
    let other = Person::new(&up, scratch.path(), "other");
    other.feed(&["login", "ana", "--password-stdin"], PASSWORD).expect(3);
    other.feed(&["login", "ana", "--password-stdin"], b"new password").expect(0);

    // An operator sets a password without the old one; who was there is out.
    up.feed(&["passwd", "--for", "ana", "--password-stdin"], b"third password\n").expect(0);
    until_says(3, &[], || ana.run(&["whoami"]));
    ana.feed(&["login", "ana", "--password-stdin"], b"third password\n").expect(0);
    ana.run(&["send", "general", "three"]).expect(0);

    let out = &ana.run(&["logout", "--json"]).expect(0).json()[0];
    assert_eq!(out["logged_out"], true);
    assert!(!ana.cluster().join("ana/.login").exists());
    assert!(ana.run(&["logout"]).expect(3).err.contains("is not logged in"));
    ana.run(&["send", "general", "four"]).expect(3);
    ana.feed(&["login", "ana", "--password-stdin"], b"third password\n").expect(0);
    let open = ana.run(&["sessions", "--json"]).expect(0).json();
    assert_eq!(open.len(), 1, "the sessions of the outboxes have ended: {open:#?}");
    assert_eq!(said(&up), ["one", "two", "three"]);

    // Who used a name without a password keeps it with the first one.
    let una = Person::new(&up, scratch.path(), "una");
    let as_una = |args: &[&str], input: &[u8]| run(una.command(args).env("CONCLAVE_USER", "una"), input);
    as_una(&["send", "general", "five"], b"").expect(0);
    assert!(as_una(&["whoami"], b"").expect(0).out.contains("without a log-in"));
    as_una(&["passwd", "--password-stdin"], PASSWORD).expect(0);
    una.run(&["send", "general", "six"]).expect(0);
    assert_eq!(una.run(&["whoami", "--json"]).expect(0).json()[0]["claimed"], true);
    up.stop();
}

#[test]
fn a_program_acts_by_a_token_in_its_environment() {
    let scratch = tempfile::tempdir().unwrap();
    let up = small(scratch.path());
    let ana = joined(&up, scratch.path(), "ana", &["--role", "admin"]);
    let token = ana.run(&["token", "create", "--label", "backup", "--expires", "1d"]).expect(0).out;
    let program = Person::new(&up, scratch.path(), "program");
    let by = |token: &str, args: &[&str]| run(program.command(args).env("CONCLAVE_TOKEN", token), b"");
    by(&token, &["send", "general", "backed up"]).expect(0);
    assert_eq!(by(&token, &["whoami", "--json"]).expect(0).json()[0]["label"], "backup");
    by(&token, &["tail", "general", "--no-follow"]).expect(0);
    assert!(!program.cluster().join("ana/.login").exists() && !program.cluster().join(".user").exists());
    let other = run(
        program.command(&["send", "general", "x"]).env("CONCLAVE_TOKEN", &token).env("CONCLAVE_USER", "bob"),
        b"",
    );
    assert!(other.expect(1).err.contains("the log-in is of the user ana"));

    // A bot has tokens and no password.
    let bot = &ana.run(&["admin", "user", "ci", "--kind", "bot", "--json"]).expect(0).json()[0];
    assert_eq!(bot["kind"], "bot");
    let made = &ana.run(&["token", "create", "--for", "ci", "--json"]).expect(0).json()[0];
    assert_eq!(made["user"], "ci");
    let bot = made["token"].as_str().unwrap();
    by(bot, &["send", "general", "built"]).expect(0);
    let refused = by(bot, &["invite", "eve"]).expect(4);
    assert!(refused.err.contains("only admins"), "{refused:#?}");
    assert_eq!(said(&up), ["backed up", "built"]);

    ana.run(&["admin", "user", "ci", "--disable"]).expect(0);
    until_says(3, &[], || by(bot, &["whoami"]));
    let damaged = by("cnv1_no", &["whoami"]).expect(2);
    assert!(damaged.err.contains("CONCLAVE_TOKEN") && !damaged.err.contains("cnv1_no"), "{damaged:#?}");
    up.stop();
}

#[test]
fn who_may_make_accounts_is_a_setting() {
    let scratch = tempfile::tempdir().unwrap();
    let up = small(scratch.path());
    let bob = Person::new(&up, scratch.path(), "bob");
    let made = bob.feed(&["register", "bob", "--password-stdin", "--json"], PASSWORD).expect(0);
    assert_eq!(made.json()[0]["user"], "bob");
    let taken = Person::new(&up, scratch.path(), "eve");
    let taken = taken.feed(&["register", "bob", "--password-stdin"], PASSWORD).expect(1);
    assert!(taken.err.contains("conclave login bob"), "{taken:#?}");
    up.run(&["admin", "registration", "closed"]).expect(0);
    let eve = Person::new(&up, scratch.path(), "eve");
    until_says(4, &[], || eve.feed(&["register", "eve", "--password-stdin"], PASSWORD));
    let refused = run(eve.command(&["send", "general", "hi"]).env("CONCLAVE_USER", "eve"), b"").expect(3);
    assert!(refused.err.contains("ask an admin for an invite"), "{refused:#?}");
    bob.run(&["send", "general", "I have an account"]).expect(0);
    up.run(&["admin", "user", "bob", "--role", "admin"]).expect(0);
    bob.log_in("bob");
    bob.run(&["admin", "registration", "invite"]).expect(0);
    let sessions = up.run(&["sessions", "--for", "bob", "--json"]).expect(0).json();
    assert!(!sessions.is_empty());
    up.run(&["sessions", "close", "all", "--for", "bob"]).expect(0);
    until_says(3, &[], || bob.run(&["whoami"]));
    // Without a terminal and without the flag nobody waits for a password.
    assert!(bob.run(&["login", "bob"]).expect(2).err.contains("--password-stdin"));
    up.stop();
}

/// What the first server of a cluster has counted of a call.
fn counted(up: &Up, call: &str) -> f64 {
    let address = up.ready["nodes"][0]["http"].as_str().unwrap();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("conclave_"), "{page}");
    let lines = page.lines().filter(|line| line.contains(&format!("\"{call}\"")));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[test]
fn a_link_of_another_cluster_is_refused_before_the_invite_is_sent() {
    let scratch = tempfile::tempdir().unwrap();
    let up = small(scratch.path());
    let elsewhere = tempfile::tempdir().unwrap();
    for tls in [&[][..], &["--insecure"]] {
        let port = crate::harness::free_base_port().to_string();
        let args = ["--ephemeral", "--base-port", &port, "--shards", "1", "--nodes", "1"];
        let other = Up::beside(elsewhere.path(), &[&args, tls].concat());
        let good = link(&up, &["bob"]);
        let bob = Person::new(&up, scratch.path(), "bob");
        let bad = good.replace(&up.servers(), &other.servers());
        let refused = bob.feed(&["join", &bad, "--password-stdin"], PASSWORD).expect(1);
        assert!(
            refused.err.contains("the invite was not sent") && !refused.err.contains("cni1_"),
            "{refused:#?}"
        );
        assert!(counted(&other, "AcceptInvite") == 0.0);
        assert!(!bob.state.join(other.ready["cluster_id"].as_str().unwrap()).exists());
        // What would have been seen: the same invite with a mistake in it.
        let own = link(&other, &["bob"]);
        let (rest, last) = own.split_at(own.len() - 1);
        let mistyped = format!("{rest}{}", if last == "0" { "1" } else { "0" });
        let eve = Person::new(&other, scratch.path(), "eve");
        eve.feed(&["join", &mistyped, "--password-stdin"], PASSWORD).expect(4);
        assert!(counted(&other, "AcceptInvite") > 0.0);
        // A cluster without TLS has links, too.
        eve.feed(&["join", &own, "--password-stdin"], PASSWORD).expect(0);
        eve.run(&["send", "general", "hello"]).expect(0);
        fs::remove_dir_all(&eve.state).unwrap();
        if !tls.is_empty() {
            bob.feed(&["join", &good, "--password-stdin"], PASSWORD).expect(0);
        }
        other.stop();
    }
    up.stop();
}

#[test]
fn what_waits_when_a_session_ends_is_sent_by_the_next_log_in_or_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--nodes", "1", "--no-restart"]);
    let freeze = || up.pids().iter().for_each(|pid| signal(*pid, Signal::STOP));
    let thaw = || {
        up.pids().iter().for_each(|pid| signal(*pid, Signal::CONT));
        up.until_healthy();
    };
    let bob = joined(&up, scratch.path(), "bob", &[]);
    let close_all = || {
        up.run(&["sessions", "close", "all", "--for", "bob"]).expect(0);
        until_says(3, &[], || bob.run(&["whoami"]));
    };
    // The command has to know which cluster is meant by the servers in the environment.
    bob.run(&["whoami"]).expect(0);
    // There was no session yet, so nothing can have been sent.
    freeze();
    bob.run(&["send", "general", "never sent", "--timeout", "2s"]).expect(5);
    thaw();
    close_all();
    let refused = bob.run(&["send", "general", "too early"]).expect(3);
    assert!(
        refused.err.contains("conclave login bob") && refused.err.contains("stays in the outbox"),
        "{refused:#?}"
    );
    assert!(bob.run(&["outbox"]).expect(0).out.contains("never sent"));
    assert_eq!(said(&up), [""; 0]);
    bob.log_in("bob");
    until("it is sent", || bob.run(&["outbox", "flush"]).code == Some(0));
    assert_eq!(said(&up), ["never sent", "too early"]);

    // A message that may have been sent is not sent again.
    freeze();
    bob.run(&["send", "general", "in doubt", "--timeout", "2s"]).expect(5);
    let waits = bob.run(&["logout", "--timeout", "3s"]);
    assert_ne!(waits.code, Some(0), "{waits:#?}");
    thaw();
    let before = said(&up);
    close_all();
    let waits = bob.run(&["logout"]).expect(1);
    assert!(waits.err.contains("1 message that waits") && waits.err.contains("--force"), "{waits:#?}");
    bob.log_in("bob");
    let sent = bob.run(&["send", "general", "after"]).expect(0);
    assert!(sent.err.contains("1 message of a session that was ended"), "{sent:#?}");
    assert!(bob.run(&["outbox", "list"]).expect(0).out.contains("in doubt"));
    assert!(bob.run(&["outbox", "flush"]).expect(5).out.contains("are not sent again"));
    let now = said(&up);
    assert_eq!(now[..before.len()], before[..]);
    assert!(now.iter().filter(|body| *body == "in doubt").count() <= 1, "{now:?}");
    bob.run(&["logout", "--force"]).expect(0);
    assert!(bob.run(&["outbox", "list"]).expect(0).out.contains("in doubt"));
    bob.run(&["outbox", "drop", "--yes"]).expect(0);
    up.stop();
}

#[test]
fn who_starts_a_new_cluster_is_its_admin_and_others_need_an_invite() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("up");
    let port = crate::harness::free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1", "--nodes", "1"];
    let up = Up::by_invite(scratch.path(), &args);
    assert_eq!(up.ready["registration"], "invite");
    let me = &up.run(&["whoami", "--json"]).expect(0).json()[0];
    assert_eq!((&me["user"], &me["role"], &me["claimed"]), (&"ana".into(), &"admin".into(), &true.into()));
    up.run(&["send", "general", "mine"]).expect(0);
    let here = Person { up: &up, state: up.state.clone() };
    here.run(&["send", "general", "mine without a variable"]).expect(0);
    let eve = Person::new(&up, scratch.path(), "eve");
    for name in ["eve", "ana"] {
        let refused = run(eve.command(&["send", "general", "hi"]).env("CONCLAVE_USER", name), b"").expect(3);
        assert!(refused.err.contains("ask an admin for an invite") || refused.err.contains("conclave login"));
    }
    let invite = here.run(&["invite", "bob", "--link"]).expect(0).out;
    let bob = Person::new(&up, scratch.path(), "bob");
    bob.feed(&["join", invite.trim(), "--password-stdin"], PASSWORD).expect(0);
    bob.run(&["send", "general", "joined"]).expect(0);
    here.feed(&["passwd", "--for", "ana", "--password-stdin"], PASSWORD).expect(0);
    here.run(&["send", "general", "still logged in"]).expect(0);
    eve.log_in("ana");
    up.stop();

    // It is there already, so nothing changes; also not with --open.
    for more in [&[][..], &["--open"]] {
        let up = Up::by_invite(scratch.path(), &[&args, more].concat());
        assert_eq!(up.ready["registration"], "invite");
        assert_eq!(up.run(&["whoami", "--json"]).expect(0).json()[0]["claimed"], true);
        up.run(&["send", "general", "again"]).expect(0);
        up.stop();
    }
    // A name that no account can have gives way.
    let third = scratch.path().join("root");
    let args = ["--dir", third.to_str().unwrap(), "--base-port", &port, "--shards", "1", "--nodes", "1"];
    let up = Up::by_invite(scratch.path(), &[&args[..], &["--user", "root"]].concat());
    let here = Person { up: &up, state: up.state.clone() };
    assert_eq!(here.run(&["whoami", "--json"]).expect(0).json()[0]["user"], "owner");
    here.run(&["send", "general", "I am the owner"]).expect(0);
    up.stop();
    let other = scratch.path().join("open");
    let args =
        ["--open", "--dir", other.to_str().unwrap(), "--base-port", &port, "--shards", "1", "--nodes", "1"];
    let up = Up::by_invite(scratch.path(), &args);
    assert_eq!(up.ready["registration"], "open");
    assert_eq!(up.run(&["whoami", "--json"]).expect(0).json()[0]["logged_in"], false);
    up.stop();
}

#[test]
fn every_example_of_the_page_about_accounts_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let up = small(scratch.path());
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/accounts.md")).unwrap();
    let examples: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(examples.len() >= 3, "{examples:?}");
    let program = Path::new(env!("CARGO_BIN_EXE_conclave")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for example in &examples {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("set -eu\n{example}")]).env_clear();
        shell
            .env("PATH", &path)
            .env("USER", "ana")
            .env("CONCLAVE_SERVERS", up.servers())
            .env("CONCLAVE_STATE_DIR", &up.state)
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let ran = finish(shell.spawn().unwrap());
        assert_eq!(ran.code, Some(0), "{example}\n{ran:#?}");
    }
    up.stop();
}
