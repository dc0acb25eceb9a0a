//! Tests of the plan.

use super::*;
use crate::args::server::Mdns;

pub(in crate::command::up) fn args(
    nodes: Option<u16>,
    shards: Option<u32>,
    base_port: Option<u16>,
) -> UpArgs {
    UpArgs {
        command: None,
        nodes,
        dir: None,
        ephemeral: false,
        base_port,
        shards,
        no_restart: false,
        open: false,
        no_dns: false,
        allow_faults: false,
        exit_with_stdin: false,
        mdns: Mdns::Auto,
        log: "info".into(),
    }
}

fn make(dir: &Path, args: &UpArgs) -> Result<UpPlan, Failed> {
    UpPlan::make(dir, args, "conclave.internal", true)
}

#[test]
fn ports_are_where_the_help_says() {
    let dir = tempfile::tempdir().unwrap();
    let plan = make(dir.path(), &args(None, None, None)).unwrap();
    assert_eq!(plan.servers(), "127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420");
    assert_eq!((plan.nodes[2].peer.port(), plan.nodes[2].http.port()), (7421, 7422));
    let resolver = plan.resolver.unwrap();
    assert_eq!([resolver.dns, resolver.grpc, resolver.http].map(|at| at.port()), [7453, 7454, 7455]);
    // No node uses a port of the name server, however many nodes there are.
    let many = make(dir.path(), &args(Some(9), None, None)).unwrap();
    assert_eq!([5, 6].map(|node: usize| many.nodes[node].client.port()), [7450, 7460]);
    let none = make(dir.path(), &UpArgs { no_dns: true, ..args(None, None, None) }).unwrap();
    assert!(none.resolver.is_none());
}

#[test]
fn the_next_run_continues_the_saved_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let first = make(dir.path(), &args(Some(5), Some(2), Some(9000))).unwrap();
    first.save().unwrap();
    let same = make(dir.path(), &args(None, None, None)).unwrap();
    assert_eq!((same.nodes.len(), same.shards(), same.nodes[0].client.port()), (5, 2, 9000));
    assert_eq!(same.cluster(), first.cluster());
    let moved = make(dir.path(), &args(Some(5), None, Some(9500))).unwrap();
    assert_eq!(moved.nodes[0].client.port(), 9500);
    let nodes = make(dir.path(), &args(Some(3), None, None)).unwrap_err();
    assert!(nodes.what.contains("began with 5 servers and not with 3"), "{nodes}");
    assert!(nodes.next.contains("--nodes"), "{nodes}");
    let shards = make(dir.path(), &args(None, Some(8), None)).unwrap_err();
    assert!(shards.what.contains("began with 2 shards and not with 8"), "{shards}");
    assert!(shards.next.contains("--shards"), "{shards}");
}

#[test]
fn a_new_cluster_wants_an_admin_until_it_has_one_and_an_old_one_does_not() {
    let wants = |dir: &Path, args: &UpArgs| make(dir, args).unwrap().wants_admin();
    let dir = tempfile::tempdir().unwrap();
    let plan = make(dir.path(), &args(None, None, None)).unwrap();
    assert!(plan.wants_admin());
    plan.save().unwrap();
    let open = UpArgs { open: true, ..args(None, None, None) };
    assert!(wants(dir.path(), &open), "an interrupted first start is completed");
    plan.saving_admin()().unwrap();
    let text = fs::read_to_string(file(dir.path())).unwrap();
    assert!(text.contains("was_ready") && !text.contains("wants_admin"), "{text}");
    let other = tempfile::tempdir().unwrap();
    assert!(!wants(other.path(), &open));
    assert!(!wants(other.path(), &UpArgs { ephemeral: true, ..args(None, None, None) }));
}

#[test]
fn a_new_cluster_has_an_authority_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
    let plan = |insecure| {
        let mut plan = UpPlan::make(dir.path(), &args(None, None, None), "conclave.internal", insecure)?;
        plan.secure(now).map(|()| plan)
    };
    let first = plan(false).unwrap();
    first.save().unwrap();
    assert!(first.authority().is_some());
    let refused = plan(true).unwrap_err().to_string();
    assert!(refused.contains("uses TLS") && refused.contains("--insecure"), "{refused}");
    let again = plan(false).unwrap();
    assert_eq!((again.authority(), again.tls()), (first.authority(), Tls::Has));
    fs::remove_dir_all(pki_dir(dir.path())).unwrap();
    assert!(plan(false).is_err(), "a lost authority is not replaced");
    Ca::read_or_create(&pki_dir(dir.path()), now).unwrap();
    assert!(plan(false).unwrap_err().to_string().contains("another cluster"));
}

#[test]
fn what_was_lost_is_named_and_how_to_get_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
    let plan = || UpPlan::make(dir.path(), &args(None, None, None), "conclave.internal", false);
    let mut first = plan().unwrap();
    first.secure(now).unwrap();
    first.save().unwrap();
    let key = pki_dir(dir.path()).join("ca.key");
    let content = fs::read_to_string(&key).unwrap();
    for damage in [None, content.get(..60)] {
        match damage {
            Some(text) => fs::write(&key, text).unwrap(),
            None => fs::remove_file(&key).unwrap(),
        }
        if damage.is_some() {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let error = plan().unwrap().secure(now).unwrap_err();
        let failed = error.downcast::<Failed>().unwrap();
        assert!(failed.next.contains("restore ca.key"), "{failed}");
        assert!(!failed.what.contains('[') && failed.what.matches("No such file").count() < 2, "{failed}");
    }
    fs::create_dir(dir.path().join("node1")).unwrap();
    fs::remove_file(file(dir.path())).unwrap();
    let failed = plan().unwrap_err();
    assert!(failed.what.contains("no up.json") && failed.next.contains("restore"), "{failed}");
    assert!(!UpPlan::is_saved_in(dir.path()));
}

#[test]
fn a_cluster_without_tls_is_changed_over_once_all_its_servers_have_begun() {
    let dir = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
    let plan =
        |insecure| UpPlan::make(dir.path(), &args(None, None, None), "conclave.internal", insecure).unwrap();
    plan(true).save().unwrap();
    let text = fs::read_to_string(file(dir.path())).unwrap();
    assert!(
        text.contains("\"format\": 1") && !text.contains("authority"),
        "as version 0.1.0 reads it: {text}"
    );
    for (name, expected) in
        [("node1", Tls::Incomplete), ("node2", Tls::Incomplete), ("node3", Tls::ChangesOver)]
    {
        let data = dir.path().join(name);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("identity"), "").unwrap();
        assert_eq!(plan(false).tls(), expected, "{name}");
        assert_eq!(plan(true).tls(), Tls::Refused);
    }
    for insecure in [true, false] {
        let mut plan = plan(insecure);
        plan.secure(now).unwrap();
        plan.save().unwrap();
        assert_eq!(plan.authority().is_none(), insecure);
    }
    let after = fs::read_to_string(file(dir.path())).unwrap();
    assert!(after.contains("\"format\": 2") && after.contains("authority"), "{after}");
    assert_eq!(plan(false).tls(), Tls::Has);
}

#[test]
fn servers_whose_data_is_gone_are_left_out_while_the_others_are_a_majority() {
    let dir = tempfile::tempdir().unwrap();
    let plan = || make(dir.path(), &args(None, None, None));
    let lost = |plan: &UpPlan| plan.lost().map(|node| node.name.clone()).collect::<Vec<_>>();
    let data = |name: &str| dir.path().join(name);
    plan().unwrap().save().unwrap();
    // The first start may have ended before all servers had begun.
    for name in ["node1", "node3"] {
        fs::create_dir(data(name)).unwrap();
        fs::write(data(name).join("identity"), "").unwrap();
    }
    let first = plan().unwrap();
    assert_eq!(lost(&first), Vec::<String>::new());
    first.saving_ready()().unwrap();
    let second = plan().unwrap();
    assert_eq!(lost(&second), ["node2"]);
    assert!(second.is_saved, "nothing is written again");
    // An empty directory is no data.
    fs::create_dir(data("node2")).unwrap();
    assert_eq!(lost(&plan().unwrap()), ["node2"]);
    fs::remove_dir_all(data("node3")).unwrap();
    let failed = plan().unwrap_err();
    assert!(failed.what.contains("no data of node2, node3") && failed.next.contains("put"), "{failed}");
    fs::write(data("node2").join("identity"), "").unwrap();
    assert_eq!(lost(&plan().unwrap()), ["node3"]);
}

#[test]
fn two_clusters_never_have_the_same_name() {
    let plan = || make(tempfile::tempdir().unwrap().path(), &args(None, None, None)).unwrap();
    assert_ne!(plan().cluster(), plan().cluster());
}

#[test]
fn a_file_that_is_no_saved_plan_is_refused() {
    for text in ["", "{}", "[1]", r#"{"format":3}"#, r#"{"format":2}"#, r#"{"format":1}"#] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let plan = make(dir.path(), &args(None, None, None)).unwrap();
    let busy = |address: SocketAddr| match address.port() {
        7411 => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        _ => Ok(()),
    };
    let free = |_: SocketAddr| Ok(());
    let failed = plan.free_ports(busy, free).unwrap_err();
    assert_eq!(failed.what, "port 7411 (for node2) is in use, perhaps by another cluster");
    assert!(plan.free_ports(free, free).is_ok());
    let failed = plan.free_ports(free, |_| Err(io::Error::from(io::ErrorKind::AddrInUse))).unwrap_err();
    assert_eq!(failed.what, "port 7453 (for the name server) is in use, perhaps by another cluster");
}
