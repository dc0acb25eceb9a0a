//! A long-running controller of a real cluster in this process, called over HTTP. Every answer is checked against the OpenAPI
//! document that the controller serves.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

mod calls;
mod cluster;
mod contract;
mod logging;
mod tls;

use std::path::Path;
use std::time::Duration;

use conclave_chaos::serve::timetable::{Entry, OnViolation, Schedule};
use serde_json::{Value, json};

use crate::calls::{Serving, wait_for};
use crate::cluster::Cluster;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_run_returns_its_verdict_and_every_operation_answers_as_documented() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let serving = Serving::start(cluster.backend(), dir.path(), None).await;
    let experiments = serving.get("/v1/experiments").await.expect(200);
    let names: Vec<&str> = experiments["experiments"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(names, ["long", "short", "strict"]);
    let short = serving.get("/v1/experiments/short").await.expect(200);
    assert_eq!(
        (&short["steps"][0]["at"], &short["steps"][0]["description"]),
        (&json!("1s"), &json!("slow disk 2ms"))
    );
    let targets = serving.get("/v1/targets").await.expect(200);
    assert_eq!(
        (&targets["backend"], &targets["targets"][2]["name"]),
        (&json!("this process"), &json!("node3"))
    );

    let mut events = serving.events().await;
    let answer = serving.post("/v1/runs", "{\"experiment\": \"short\", \"seed\": 7}").await;
    let begun = answer.expect(201);
    let id = begun["id"].as_str().unwrap().to_owned();
    assert_eq!((&begun["state"], &begun["seed"]), (&json!("running"), &json!(7)));
    assert_eq!(answer.header("location"), Some(format!("/v1/runs/{id}").as_str()));

    // One run at a time: a second request is refused with the id of the current run.
    let refused = serving.post("/v1/runs", "{\"experiment\": \"long\"}").await.problem(409);
    assert!(refused.contains(&format!("run {id} of short is in progress")), "{refused}");
    serving.delete("/v1/faults").await.problem(409);
    assert_eq!(serving.get("/v1/status").await.expect(200)["run"]["id"], id);
    assert_eq!(serving.get("/v1/runs/current").await.expect(200)["id"], id);

    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "ended") {
        let event = events.next().await.expect("events until the end");
        assert_eq!(event["run"], id);
        kinds.push(event["kind"].as_str().unwrap().to_owned());
    }
    for kind in ["began", "steady", "applied", "healed", "recovering", "recovered", "judging"] {
        assert!(kinds.iter().any(|seen| seen == kind), "{kind} is not among {kinds:?}");
    }
    let run = serving.get(&format!("/v1/runs/{id}")).await.expect(200);
    assert_eq!(run["state"], "passed", "{run}");
    assert!(run["longest_gap_ms"].is_u64() && run["ended_ms"].as_i64() >= run["began_ms"].as_i64());
    let page = serving.get(&format!("/v1/runs/{id}/report.html")).await;
    assert!(page.status == 200 && page.body.contains("Every promise held"), "{page:?}");
    assert_eq!(serving.get(&format!("/v1/runs/{id}/report.json")).await.expect(200)["seed"], 7);
    let history = serving.get(&format!("/v1/runs/{id}/history.jsonl")).await;
    assert!(history.status == 200 && history.body.lines().count() > 10, "{}", history.status);
    for missing in ["/v1/runs/none", &format!("/v1/runs/{id}/run.json"), "/v1/runs/..%2f..%2fetc/report.html"]
    {
        serving.get(missing).await.problem(404);
    }
    check_metrics_of_a_passed_run(&serving.metrics().await);

    // What is left of the operations, so that each was answered with success, and checked against the document, at least once.
    serving.get("/v1/schedule").await.expect(200);
    serving
        .post("/v1/faults", "{\"fault\": \"slow-disk\", \"with\": {\"delay\": \"1ms\"}}")
        .await
        .expect(201);
    assert_eq!(serving.get("/v1/faults").await.expect(200)["faults"][0]["description"], "slow disk 1ms");
    serving.delete("/v1/faults").await.expect(200);
    let long = serving.post("/v1/runs", "{\"experiment\": \"long\"}").await.expect(201);
    // The run that has ended cannot be stopped, and its id does not stop another one.
    let refused = serving.post(&format!("/v1/runs/{id}/stop"), "").await.problem(409);
    assert!(refused.contains("is not in progress"), "{refused}");
    let stop = format!("/v1/runs/{}/stop", long["id"].as_str().unwrap());
    assert_eq!(serving.post(&stop, "").await.expect(200)["state"], "stopped");

    check_pages(&serving, [long["id"].as_str().unwrap(), &id]).await;
    serving.get("/openapi.json").await.expect(200);
    assert_eq!(serving.contract.never_succeeded(), Vec::<String>::new());

    // The stream ends with the controller, and the next controller finds the kept run.
    serving.stop.cancel();
    while events.next().await.is_some() {}
    drop(events);
    serving.end().await;
    let serving = Serving::start(cluster.backend(), dir.path(), None).await;
    assert_eq!(serving.get(&format!("/v1/runs/{id}")).await.expect(200)["state"], "passed");
}

/// The metrics after one run of `short` that passed.
fn check_metrics_of_a_passed_run(metrics: &str) {
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
}

/// The runs are these two, the newest first, in pages of any size.
async fn check_pages(serving: &Serving, [newest, oldest]: [&str; 2]) {
    let first = serving.get("/v1/runs?limit=1").await.expect(200);
    assert_eq!((&first["runs"][0]["id"], &first["next"]), (&json!(newest), &json!(newest)));
    let rest = serving.get(&format!("/v1/runs?after={newest}")).await.expect(200);
    assert_eq!(rest["runs"].as_array().unwrap().len(), 1);
    assert_eq!((&rest["runs"][0]["id"], &rest["next"]), (&json!(oldest), &Value::Null));
    serving.get("/v1/runs?after=none").await.problem(404);
    serving.get("/v1/runs?limit=1000").await.problem(400);
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_healed_in_time_on_request_at_the_end_and_by_the_next_controller() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let backend = cluster.backend();
    let serving = Serving::start(backend.clone(), dir.path(), None).await;
    let slow = |nodes: &str, lasts: &str| {
        json!({"fault": "slow-disk", "nodes": nodes, "for": lasts, "with": {"delay": "5ms"}}).to_string()
    };

    let wrong = serving.post("/v1/faults", "{\"fault\": \"slow-disk\"}").await.problem(400);
    assert!(wrong.contains("needs `delay`"), "{wrong}");
    let refused = serving.post("/v1/faults", &slow("node9", "1s")).await.problem(409);
    assert!(refused.contains("node9") && refused.contains("/v1/targets"), "{refused}");
    let applied = serving.post("/v1/faults", &slow("node1", "10m")).await.expect(201);
    assert_eq!((&applied["fault"], &applied["nodes"]), (&json!("slow-disk"), &json!(["node1"])));
    assert_eq!(backend.in_force(), 1);
    assert!(
        serving.metrics().await.contains("conclave_chaos_fault_active{fault=\"slow-disk\",node=\"node1\"} 1")
    );
    let refused = serving.post("/v1/runs", "{\"experiment\": \"short\"}").await.problem(409);
    assert!(refused.contains("slow disk 5ms is in force at node1"), "{refused}");
    assert_eq!(serving.get("/v1/status").await.expect(200)["faults"], 1);
    assert_eq!(serving.delete("/v1/faults").await.expect(200)["healed"], 1);
    assert_eq!(backend.in_force(), 0);
    assert!(
        serving.metrics().await.contains("conclave_chaos_fault_active{fault=\"slow-disk\",node=\"node1\"} 0")
    );

    serving.post("/v1/faults", &slow("leader", "200ms")).await.expect(201);
    wait_for("the fault to be healed after its time", async || {
        serving.get("/v1/faults").await.expect(200)["faults"] == json!([])
    })
    .await;

    // A run that is stopped before its end.
    serving.post("/v1/runs", "{\"experiment\": \"long\"}").await.expect(201);
    wait_for("the run's fault", async || backend.in_force() == 1).await;
    let stopped = serving.post("/v1/runs/current/stop", "").await.expect(200);
    assert_eq!((stopped["state"].as_str(), backend.in_force()), (Some("stopped"), 0));
    serving.post("/v1/runs/current/stop", "").await.problem(404);

    // A controller that is stopped heals.
    serving.post("/v1/faults", &slow("node1", "10m")).await.expect(201);
    serving.end().await;
    assert_eq!(backend.in_force(), 0);

    // A controller that dies leaves healing to the next one.
    let serving = Serving::start(backend.clone(), dir.path(), None).await;
    serving.post("/v1/faults", &slow("node1", "10m")).await.expect(201);
    serving.die().await;
    assert_eq!(backend.in_force(), 1);
    let serving = Serving::start(backend.clone(), dir.path(), None).await;
    wait_for("what was left behind to be healed", async || backend.in_force() == 0).await;
    wait_for("the next controller to say so", async || {
        serving.get("/v1/faults").await.expect(200)["faults"] == json!([])
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
    wait_for("the schedule to be halted", async || {
        let schedule = serving.get("/v1/schedule").await.expect(200);
        // The next run is known until then.
        assert_eq!(schedule["entries"][0]["next_ms"].is_null(), schedule["halted"].is_string(), "{schedule}");
        schedule["halted"].is_string()
    })
    .await;
    assert!(serving.metrics().await.contains("\nconclave_chaos_schedule_halted 1\n"));
    let listed = serving.get("/v1/runs").await.expect(200);
    // On a busy machine, earlier runs may have ended without a verdict, which does not halt the schedule.
    let runs = listed["runs"].as_array().unwrap();
    let run = &runs[0];
    assert_eq!((run["state"].as_str(), run["cause"].as_str()), (Some("violated"), Some("schedule")));
    assert!(runs[1..].iter().all(|run| run["state"] == "failed"), "{listed}");
    assert!(run["why"].to_string().contains("may be at most 1ms"), "{run}");
    let status = serving.get("/v1/status").await.expect(200);
    assert!(status["schedule_halted"].as_str().unwrap().contains(run["id"].as_str().unwrap()), "{status}");
    let schedule = serving.get("/v1/schedule").await.expect(200);
    assert_eq!(
        (&schedule["on_violation"], &schedule["halted"]),
        (&json!("stop"), &status["schedule_halted"])
    );
    // Requests are still answered, and no other scheduled run was due meanwhile.
    let requested = serving.post("/v1/runs", "{\"experiment\": \"short\"}").await.expect(201);
    let path = format!("/v1/runs/{}", requested["id"].as_str().unwrap());
    wait_for("the requested run", async || serving.get(&path).await.expect(200)["state"] != "running").await;
    let now = serving.get("/v1/runs").await.expect(200);
    assert_eq!(now["runs"].as_array().unwrap().len(), runs.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_changes_something_needs_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let backend = cluster::empty();
    let serving = Serving::start(backend.clone(), dir.path(), Some(TOKEN)).await;
    let bearer = format!("Bearer {TOKEN}");
    for (method, path, body) in [
        ("DELETE", "/v1/faults", ""),
        ("POST", "/v1/runs", "{\"experiment\": \"short\"}"),
        ("POST", "/v1/faults", "{\"fault\": \"kill\"}"),
        ("POST", "/v1/runs/current/stop", ""),
        // Refused before the body is read.
        ("POST", "/v1/runs", "no JSON"),
    ] {
        let answer = serving.send(method, path, &[], body).await;
        assert!(answer.problem(401).contains("--token-file"), "{path}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("bearer"));
        let wrong = [("authorization", "Bearer 0123456789abcdef0123456789abcdeF")];
        serving.send(method, path, &wrong, body).await.problem(401);
    }
    let known = [("authorization", bearer.as_str())];
    assert_eq!(serving.send("DELETE", "/v1/faults", &known, "").await.expect(200)["healed"], 0);
    // Reading needs no token.
    serving.get("/v1/runs").await.expect(200);
    assert_eq!(serving.get("/readyz").await.status, 200);
    serving.end().await;

    let serving = Serving::start(backend, dir.path(), None).await;
    let page = [("origin", "http://127.0.0.1:9464")];
    serving.send("DELETE", "/v1/faults", &page, "").await.problem(403);
    serving.delete("/v1/faults").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_cannot_start_is_refused_or_recorded_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(cluster::empty(), dir.path(), None).await;
    let refused = serving.post("/v1/runs", "{\"experiment\": \"none\"}").await.problem(404);
    assert!(refused.contains("short"), "{refused}");
    let refused = serving.post("/v1/runs", "{\"experiment\": \"short\", \"x\": 1}").await.problem(400);
    assert!(refused.contains('x'), "{refused}");
    // Larger than the largest body.
    let long = json!({"experiment": "x".repeat(20_000)}).to_string();
    serving.post("/v1/runs", &long).await.problem(413);
    // There is no target.
    serving.post("/v1/runs", "{\"experiment\": \"short\"}").await.expect(201);
    wait_for("the run to end", async || {
        let run = &serving.get("/v1/runs").await.expect(200)["runs"][0];
        run["state"] == "failed" && run["why"].to_string().contains("nobody is here")
    })
    .await;
    serving.post("/v1/faults", "{\"fault\": \"kill\"}").await.problem(409);
    serving.get("/v1/targets").await.problem(502);
    assert!(Path::new(dir.path()).join("runs").is_dir());
}

/// Together with the unit test that compares the paths, this shows that the router has the document's operations and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_has_the_documented_methods_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    // With a token, so that no request changes anything.
    let serving = Serving::start(cluster::empty(), dir.path(), Some(TOKEN)).await;
    let operations = serving.contract.operations();
    assert!(operations.iter().filter(|(.., documented)| *documented).count() >= 15, "{operations:?}");
    for (method, path, documented) in operations {
        if path == "/v1/events" && documented {
            drop(serving.events().await);
            continue;
        }
        let filled = path.replace("{id}", "none").replace("{name}", "none");
        let answer = serving.send(method, &filled, &[], "").await;
        let code = if answer.status < 300 { Value::Null } else { answer.json()["code"].clone() };
        assert_eq!(code != "method_not_allowed", documented, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("allow").is_none(), documented, "{method} {path}: {answer:?}");
    }
    let refused = serving.get("/v1/nothing").await.problem(404);
    assert!(refused.contains("there is nothing at /v1/nothing"), "{refused}");
}
