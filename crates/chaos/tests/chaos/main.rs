//! A long-running controller of a real cluster in this process, called over gRPC and HTTP.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

mod calls;
mod cluster;

use std::path::Path;
use std::time::Duration;

use conclave_chaos::serve::timetable::{Entry, OnViolation, Schedule};
use conclave_proto::chaos::run::{Cause, State};
use conclave_proto::chaos::{
    ApplyFaultRequest, GetRunRequest, HealRequest, ListFaultsRequest, ListRunsRequest, ListTargetsRequest,
    StartRunRequest, StopRunRequest, WatchEventsRequest,
};
use tonic::{Code, Request};

use crate::calls::{Serving, wait_for};
use crate::cluster::Cluster;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_run_returns_its_verdict() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let serving = Serving::start(cluster.backend(), dir.path(), None).await;
    let mut api = serving.api().await;
    let (status, experiments) = serving.http("GET", "/experiments", &[], "").await;
    assert_eq!(status, 200, "{experiments}");
    assert!(experiments.contains("\"short\"") && experiments.contains("\"long\""), "{experiments}");
    let targets = api.list_targets(ListTargetsRequest {}).await.unwrap().into_inner();
    assert_eq!((targets.backend.as_str(), targets.targets.len()), ("this process", 3));

    let mut events = api.watch_events(WatchEventsRequest {}).await.unwrap().into_inner();
    let (status, begun) =
        serving.http("POST", "/runs", &[], "{\"experiment\": \"short\", \"seed\": 7}").await;
    assert_eq!(status, 201, "{begun}");
    let begun: serde_json::Value = serde_json::from_str(&begun).unwrap();
    let id = begun["id"].as_str().unwrap().to_owned();
    assert_eq!((begun["state"].as_str(), begun["seed"].as_u64()), (Some("running"), Some(7)));

    // One run at a time: a second request is refused with the id of the current run.
    let (status, refused) = serving.http("POST", "/runs", &[], "{\"experiment\": \"short\"}").await;
    assert!(status == 409 && refused.contains(&id) && refused.contains("short"), "{status} {refused}");
    let start = StartRunRequest { experiment: "long".to_owned(), seed: None };
    let refused = api.start_run(start).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(&id), "{refused}");
    assert_eq!(api.heal(HealRequest {}).await.unwrap_err().code(), Code::FailedPrecondition);

    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "ended") {
        let event = events.message().await.unwrap().expect("events until the end");
        assert_eq!(event.run, id);
        kinds.push(event.kind);
    }
    for kind in ["began", "steady", "applied", "healed", "recovering", "recovered", "judging"] {
        assert!(kinds.iter().any(|seen| seen == kind), "{kind} is not among {kinds:?}");
    }
    let run = api.get_run(GetRunRequest { id: id.clone() }).await.unwrap().into_inner().run.unwrap();
    assert_eq!(run.state(), State::Passed, "{run:?}");
    assert!(run.longest_gap_ms.is_some() && run.ended_ms >= run.began_ms);
    let (status, page) = serving.http("GET", &format!("/runs/{id}/report.html"), &[], "").await;
    assert!(status == 200 && page.contains("Every promise held"), "{status} {page}");
    for missing in ["/runs/none", &format!("/runs/{id}/run.json"), "/runs/..%2f..%2fetc/report.html"] {
        assert_eq!(serving.http("GET", missing, &[], "").await.0, 404, "{missing}");
    }
    let metrics = serving.metrics().await;
    for line in [
        "conclave_chaos_runs_total{experiment=\"short\",verdict=\"passed\"} 1",
        "conclave_chaos_run_active{experiment=\"short\"} 0",
        "conclave_chaos_faults_total{fault=\"slow-disk\",outcome=\"healed\"} 1",
        "conclave_chaos_recovery_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let acked =
        metrics.lines().find_map(|line| line.strip_prefix("conclave_chaos_sends_total{outcome=\"ok\"} "));
    assert!(acked.unwrap().parse::<u64>().unwrap() > 10, "{metrics}");

    // The next controller finds the kept run.
    drop(api);
    drop(events);
    serving.end().await;
    let serving = Serving::start(cluster.backend(), dir.path(), None).await;
    let (status, kept) = serving.http("GET", &format!("/runs/{id}"), &[], "").await;
    assert!(status == 200 && kept.contains("\"passed\""), "{status} {kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_healed_in_time_on_request_at_the_end_and_by_the_next_controller() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let backend = cluster.backend();
    let serving = Serving::start(backend.clone(), dir.path(), None).await;
    let mut api = serving.api().await;
    let slow = |lasts: &str| {
        format!(
            "{{\"fault\": \"slow-disk\", \"nodes\": \"node1\", \"for\": \"{lasts}\", \"with\": {{\"delay\": \"5ms\"}}}}"
        )
    };

    let (status, wrong) = serving.http("POST", "/faults", &[], "{\"fault\": \"slow-disk\"}").await;
    assert!(status == 400 && wrong.contains("needs `delay`"), "{status} {wrong}");
    let (status, applied) = serving.http("POST", "/faults", &[], &slow("10m")).await;
    assert_eq!(status, 200, "{applied}");
    assert_eq!(backend.in_force(), 1);
    assert!(
        serving.metrics().await.contains("conclave_chaos_fault_active{fault=\"slow-disk\",node=\"node1\"} 1")
    );
    let start = StartRunRequest { experiment: "short".to_owned(), seed: None };
    let refused = api.start_run(start).await.unwrap_err();
    assert!(refused.message().contains("slow disk 5ms is in force at node1"), "{refused}");
    assert_eq!(api.heal(HealRequest {}).await.unwrap().into_inner().healed, 1);
    assert_eq!(backend.in_force(), 0);
    assert!(
        serving.metrics().await.contains("conclave_chaos_fault_active{fault=\"slow-disk\",node=\"node1\"} 0")
    );

    let short = ApplyFaultRequest {
        fault: "slow-disk".to_owned(),
        nodes: "leader".to_owned(),
        for_ms: 200,
        with: [("delay".to_owned(), "1ms".to_owned())].into(),
    };
    api.apply_fault(short).await.unwrap();
    wait_for("the fault to be healed after its time", async || {
        api.list_faults(ListFaultsRequest {}).await.unwrap().into_inner().faults.is_empty()
    })
    .await;

    // A run that is stopped before its end.
    let (status, begun) = serving.http("POST", "/runs", &[], "{\"experiment\": \"long\"}").await;
    assert_eq!(status, 201, "{begun}");
    wait_for("the run's fault", async || backend.in_force() == 1).await;
    let stopped = api.stop_run(StopRunRequest {}).await.unwrap().into_inner().run.unwrap();
    assert_eq!((stopped.state(), backend.in_force()), (State::Stopped, 0));
    assert_eq!(serving.http("DELETE", "/runs/current", &[], "").await.0, 404);

    // A controller that is stopped heals.
    assert_eq!(serving.http("POST", "/faults", &[], &slow("10m")).await.0, 200);
    drop(api);
    serving.end().await;
    assert_eq!(backend.in_force(), 0);

    // A controller that dies leaves healing to the next one.
    let serving = Serving::start(backend.clone(), dir.path(), None).await;
    assert_eq!(serving.http("POST", "/faults", &[], &slow("10m")).await.0, 200);
    serving.die().await;
    assert_eq!(backend.in_force(), 1);
    let serving = Serving::start(backend.clone(), dir.path(), None).await;
    wait_for("what was left behind to be healed", async || backend.in_force() == 0).await;
    wait_for("the next controller to say so", async || {
        serving.http("GET", "/faults", &[], "").await.1.trim() == "[]"
    })
    .await;
    assert!(
        serving.metrics().await.contains("conclave_chaos_fault_active{fault=\"slow-disk\",node=\"node1\"} 0")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_runs_until_a_promise_is_broken() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let every = Duration::from_millis(300);
    let entry = Entry { experiment: "strict".to_owned(), every, jitter: Duration::ZERO };
    let schedule = Schedule { on_violation: OnViolation::Stop, runs: vec![entry] };
    let serving = Serving::start_with(cluster.backend(), dir.path(), None, schedule).await;
    let mut api = serving.api().await;
    wait_for("the schedule to be halted", async || {
        serving.metrics().await.contains("\nconclave_chaos_schedule_halted 1\n")
    })
    .await;
    let listed = api.list_runs(ListRunsRequest {}).await.unwrap().into_inner();
    // On a busy machine, earlier runs may have ended without a verdict, which does not halt the schedule.
    let run = listed.runs.first().unwrap();
    assert_eq!((run.state(), run.cause()), (State::Violated, Cause::Schedule));
    assert!(listed.runs[1..].iter().all(|run| run.state() == State::Failed), "{listed:?}");
    assert!(run.why.iter().any(|why| why.contains("may be at most 1ms")), "{run:?}");
    assert!(listed.schedule_halted.contains(&run.id), "{listed:?}");
    // Calls are still served, and no other scheduled run was due meanwhile.
    let start = StartRunRequest { experiment: "short".to_owned(), seed: None };
    let asked = api.start_run(start).await.unwrap().into_inner().run.unwrap();
    wait_for("the run that was asked for", async || {
        let run = GetRunRequest { id: asked.id.clone() };
        api.get_run(run).await.unwrap().into_inner().run.unwrap().state() != State::Running
    })
    .await;
    assert_eq!(
        api.list_runs(ListRunsRequest {}).await.unwrap().into_inner().runs.len(),
        listed.runs.len() + 1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_changes_something_needs_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let backend = cluster::nobody();
    let serving = Serving::start(backend.clone(), dir.path(), Some(TOKEN)).await;
    let mut api = serving.api().await;
    let bearer = format!("Bearer {TOKEN}");
    for (method, path, body) in [
        ("POST", "/heal", ""),
        ("POST", "/runs", "{\"experiment\": \"short\"}"),
        ("POST", "/faults", "{\"fault\": \"kill\"}"),
        ("DELETE", "/runs/current", ""),
    ] {
        let (status, refused) = serving.http(method, path, &[], body).await;
        assert!(status == 401 && refused.contains("--token-file"), "{path}: {status} {refused}");
        let wrong = [("authorization", "Bearer 0123456789abcdef0123456789abcdeF")];
        assert_eq!(serving.http(method, path, &wrong, body).await.0, 401, "{path}");
    }
    assert_eq!(serving.http("POST", "/heal", &[("authorization", &bearer)], "").await.0, 200);
    assert_eq!(api.heal(HealRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(api.stop_run(StopRunRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    let start = StartRunRequest { experiment: "short".to_owned(), seed: None };
    assert_eq!(api.start_run(start).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(
        api.apply_fault(ApplyFaultRequest::default()).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let mut known = Request::new(HealRequest {});
    known.metadata_mut().insert("authorization", bearer.parse().unwrap());
    assert_eq!(api.heal(known).await.unwrap().into_inner().healed, 0);
    // Reading needs no token.
    assert_eq!(serving.http("GET", "/runs", &[], "").await.0, 200);
    assert_eq!(serving.http("GET", "/readyz", &[], "").await.0, 200);
    drop(api);
    serving.end().await;

    let serving = Serving::start(backend, dir.path(), None).await;
    let page = [("origin", "http://127.0.0.1:9464")];
    assert_eq!(serving.http("POST", "/heal", &page, "").await.0, 403);
    assert_eq!(serving.http("POST", "/heal", &[], "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_cannot_start_is_refused_or_recorded_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(cluster::nobody(), dir.path(), None).await;
    let (status, refused) = serving.http("POST", "/runs", &[], "{\"experiment\": \"none\"}").await;
    assert!(status == 404 && refused.contains("short"), "{status} {refused}");
    let (status, refused) = serving.http("POST", "/runs", &[], "{\"experiment\": \"short\", \"x\": 1}").await;
    assert!(status == 400 && refused.contains('x'), "{status} {refused}");
    // Larger than the largest body.
    let long = format!("{{\"experiment\": \"{}\"}}", "x".repeat(20_000));
    assert_eq!(serving.http("POST", "/runs", &[], &long).await.0, 413);
    // There is no target.
    let (status, _) = serving.http("POST", "/runs", &[], "{\"experiment\": \"short\"}").await;
    assert_eq!(status, 201);
    wait_for("the run to end", async || {
        let (_, runs) = serving.http("GET", "/runs", &[], "").await;
        runs.contains("\"failed\"") && runs.contains("nobody is here")
    })
    .await;
    let (status, _) = serving.http("POST", "/faults", &[], "{\"fault\": \"kill\"}").await;
    assert_eq!(status, 502);
    assert!(Path::new(dir.path()).join("runs").is_dir());
}
