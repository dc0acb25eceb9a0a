//! Consumers that are killed: what they had not taken comes again, and what a bot replies is there exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::harness::{DEADLINE, Up, command, finish, lines_of, signal, until};

/// Messages for each room.
const MESSAGES: usize = 60;

/// A shell with its whole pipeline in a process group of its own.
struct Pipeline(Child);

impl Pipeline {
    fn start(mut command: Command) -> Self {
        Self(command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process_group(group, Signal::KILL).unwrap();
        self.0.wait().unwrap();
    }
}

/// A command as `up.command` makes it, for another program.
fn shell(up: &Up, user: &str, script: &str) -> Command {
    let mut shell = Command::new("sh");
    for (key, value) in command(&[]).get_envs() {
        match value {
            Some(value) => shell.env(key, value),
            None => shell.env_remove(key),
        };
    }
    shell.args(["-c", script]).env("CONCLAVE_SERVERS", up.servers()).env("CONCLAVE_STATE_DIR", &up.state);
    shell.env("CONCLAVE_USER", user).env("CONCLAVE", env!("CARGO_BIN_EXE_conclave"));
    shell
}

fn bodies(up: &Up, room: &str, from: &str) -> Vec<String> {
    let history = up.run(&["history", room, "-n", "10000", "--json", "--linearizable"]).expect(0);
    let own = |event: &Value| event["kind"] == "message" && event["from"] == from;
    let body = |event: Value| event["body"].as_str().unwrap().to_owned();
    history.json().into_iter().filter(own).map(body).collect()
}

fn say(up: &Up, room: &str, range: std::ops::Range<usize>) {
    let input: String = range.map(|i| format!("{room} {i}\n")).collect();
    up.feed(&["send", room, "-"], input.as_bytes()).expect(0);
}

/// Kills what `start` starts at random moments until it has answered each message, and a few times more.
fn killed_at_random(up: &Up, start: impl Fn() -> Command, user: &str, rooms: &[&str]) {
    // A backlog first, then messages that come while it runs.
    rooms.iter().for_each(|room| say(up, room, 0..MESSAGES / 2));
    let mut seed = u64::from(std::process::id());
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let answered = |room: &str| bodies(up, room, user).len();
    let begun = Instant::now();
    let mut said = MESSAGES / 2;
    loop {
        let running = Pipeline::start(start());
        let before: usize = rooms.iter().map(|room| answered(room)).sum();
        // It is killed after some more answers, wherever it is then.
        let more = usize::try_from(random(12)).unwrap();
        let kill_at = Instant::now() + DEADLINE;
        loop {
            let now: usize = rooms.iter().map(|room| answered(room)).sum();
            if now > before + more || now >= rooms.len() * MESSAGES {
                break;
            }
            assert!(Instant::now() < kill_at, "no progress: {now} answers");
            if said < MESSAGES {
                rooms.iter().for_each(|room| say(up, room, said..said + 1));
                said += 1;
            }
        }
        running.kill();
        if rooms.iter().all(|room| answered(room) >= MESSAGES) {
            break;
        }
        assert!(begun.elapsed() < DEADLINE * 4, "it does not come to the end");
    }
    // What is left in an outbox is sent, and nothing is answered anew.
    let last = Pipeline::start(start());
    rooms.iter().for_each(|room| say(up, room, MESSAGES..MESSAGES + 1));
    until("the last message is answered", || rooms.iter().all(|room| answered(room) > MESSAGES));
    last.kill();
    for room in rooms {
        let expected: Vec<String> = (0..=MESSAGES).map(|i| format!("re {room} {i}")).collect();
        assert_eq!(bodies(up, room, user), expected, "#{room}: missed, doubled or out of order");
    }
}

fn executable(path: &Path, script: &str) -> String {
    fs::write(path, script).unwrap();
    format!("sh {}", path.display())
}

#[test]
fn a_bot_that_is_killed_at_random_answers_each_message_exactly_once() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2", "--nodes", "1"]);
    // The body of a message, between the last two quotes of `"body":"…"`.
    let script = r#"sed -n 's/.*"body":"\([^"]*\)".*/re \1/p'"#;
    let exec = executable(&scratch.path().join("bot"), script);
    for (bot, rooms) in [("one", &["solo"][..]), ("two", &["left", "right"])] {
        rooms.iter().for_each(|room| drop(up.run(&["create", room]).expect(0)));
        let start = || {
            let line = format!("\"$CONCLAVE\" bot {} --name {bot} --exec '{exec}'", rooms.join(" "));
            shell(&up, "robot", &line)
        };
        killed_at_random(&up, start, "robot", rooms);
    }
    up.stop();
}

#[test]
fn a_failing_command_moves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--nodes", "1"]);
    say(&up, "general", 0..3);
    let bot = |exec: &str, more: &[&str]| {
        let mut bot = up.command(&[&["bot", "general", "--no-follow", "--exec", exec], more].concat());
        crate::harness::run(bot.env("CONCLAVE_USER", "robot"), b"")
    };
    // The second message is not for it.
    let failed =
        bot("read -r line; case $line in *'general 1'*) echo half; exit 3;; esac; echo ok", &[]).expect(1);
    assert!(failed.err.contains("#general:4") && failed.err.contains("exit status: 3"), "{failed:#?}");
    assert_eq!(bodies(&up, "general", "robot"), ["ok"]);
    bot("echo fine", &[]).expect(0);
    assert_eq!(bodies(&up, "general", "robot"), ["ok", "fine", "fine"]);
    bot("echo again", &[]).expect(0);
    assert_eq!(bodies(&up, "general", "robot").len(), 3, "there is nothing new");
    say(&up, "general", 3..4);
    bot("exit 1", &["--skip-failed"]).expect(0);
    up.run(&["create", "ci"]).expect(0);
    say(&up, "general", 4..5);
    bot("echo '{\"room\":\"ci\",\"text\":\"elsewhere\"}'", &["--json-replies"]).expect(0);
    assert_eq!(bodies(&up, "ci", "robot"), ["elsewhere"]);
    up.stop();
}

#[test]
fn a_consumer_that_acknowledges_and_is_killed_at_random_misses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2", "--nodes", "1"]);
    let rooms = ["left", "right"];
    rooms.iter().for_each(|room| drop(up.run(&["create", room]).expect(0)));
    rooms.iter().for_each(|room| say(&up, room, 0..MESSAGES));
    let (dir, log) = (scratch.path().display(), scratch.path().join("done"));
    // What the consumer is done with is in its log, one line at a time, before it says so.
    let script = format!(
        r#"mkfifo "$0" && "$CONCLAVE" tail left right --json --resume-file {dir}/pos --ack <"$0" | while read -r line; do
             room=${{line#*\"room\":\"}} && room=${{room%%\"*}} && seq=${{line#*\"seq\":}} && seq=${{seq%%,*}}
             echo "$room $seq" >>{dir}/done && echo "$room $seq"
           done >"$0""#
    );
    let done = || fs::read_to_string(&log).unwrap_or_default();
    let whole = |room: &str| done().contains(&format!("{room} {}\n", MESSAGES + 1));
    let begun = Instant::now();
    let mut round = 0;
    while !rooms.iter().all(|room| whole(room)) {
        let before = done().lines().count();
        let mut line = shell(&up, "robot", &script);
        line.arg(scratch.path().join(format!("acks{round}")));
        let running = Pipeline::start(line);
        until("it goes on", || {
            done().lines().count() > before + 3 * round || rooms.iter().all(|room| whole(room))
        });
        running.kill();
        round += 1;
        assert!(begun.elapsed() < DEADLINE * 4, "it does not come to the end");
    }
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in done().lines() {
        let (room, seq) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        seen.entry(room.to_owned()).or_default().push(seq.parse().unwrap());
    }
    assert_eq!(
        seen.keys().collect::<Vec<_>>(),
        ["left", "right"],
        "rooms have their names from the first event on"
    );
    for (room, seqs) in seen {
        // A line may come again; none is skipped.
        let mut next = 1;
        for seq in seqs {
            assert!(seq <= next, "#{room}: {next} was skipped");
            next = next.max(seq + 1);
        }
    }
    up.stop();
}

#[test]
fn positions_of_several_rooms_move_during_the_backlog_and_wait_for_acknowledgements() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2", "--nodes", "1"]);
    // A room whose name is the id of another one.
    up.run(&["create", "ops"]).expect(0);
    let rooms = up.run(&["rooms", "--json"]).expect(0).json();
    let id = rooms.iter().find(|room| room["room"] == "ops").unwrap()["id"].to_string();
    up.run(&["create", &id]).expect(0);
    say(&up, "ops", 0..30);
    say(&up, &id, 0..30);
    let file = scratch.path().join("pos");
    let args = ["tail", "ops", &id, "--json", "--resume-file", file.to_str().unwrap()];
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let all = |last: &BTreeMap<String, u64>| last.values().sum::<u64>() >= 40;
    for _ in 0..12 {
        if all(&last) {
            break;
        }
        let mut tail = up.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(tail.stdout.take().unwrap());
        let mut read: Vec<String> =
            (0..6).map_while(|_| lines.recv_timeout(Duration::from_secs(60)).ok()).collect();
        signal(tail.id(), Signal::KILL);
        finish(tail);
        // What was printed counts as taken, also what nobody has read yet.
        read.extend(lines);
        for line in read {
            let event: Value = serde_json::from_str(&line).unwrap();
            let room = event["room"].as_str().unwrap().to_owned();
            assert!(room == "ops" || room == id, "{line}");
            if event["kind"] == "message" {
                assert!(event["body"].as_str().unwrap().starts_with(&format!("{room} ")), "{line}");
            }
            let seq = event["seq"].as_u64().unwrap();
            let before = last.entry(room).or_default();
            assert!(seq <= *before + 1, "{line} after {before}");
            *before = seq.max(*before);
        }
    }
    assert!(all(&last), "each run goes on where the last one was: {last:?}");

    // Without an acknowledgement the position stays; a wrong one is an error.
    let acked = scratch.path().join("acked");
    let more = ["tail", "ops", "--resume-file", acked.to_str().unwrap(), "--ack", "--no-follow"];
    let none = up.feed(&more, b"\n").expect(1);
    assert!(none.err.contains("had acknowledged"), "{none:#?}");
    assert!(up.feed(&more, b"ops 999\n").expect(1).err.contains("was not printed"));
    up.stop();
}

#[test]
fn every_example_of_the_page_about_bots_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--nodes", "1"]);
    up.run(&["send", "general", "hello"]).expect(0);
    up.run(&["send", "general", "fire!"]).expect(0);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bots.md")).unwrap();
    let examples: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(examples.len(), 3);
    let program = Path::new(env!("CARGO_BIN_EXE_conclave")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for example in &examples {
        let mut run = shell(&up, "robot", &format!("set -eu\n{example}"));
        run.env("PATH", &path).current_dir(scratch.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(run.spawn().unwrap()).expect(0);
    }
    assert_eq!(bodies(&up, "general", "robot"), ["you said: hello", "you said: fire!"]);
    assert_eq!(bodies(&up, "alarms", "robot"), ["somebody cried fire\nin #general"]);
    let (done, position) = (
        fs::read_to_string(scratch.path().join("done.log")),
        fs::read_to_string(scratch.path().join("general.pos")),
    );
    let last = done.unwrap().lines().count();
    assert!(position.unwrap().ends_with(&format!(" {last} general\n")));
    up.stop();
}
