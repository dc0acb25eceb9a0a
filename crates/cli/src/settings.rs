//! The configuration of a client command, resolved from the command line, the environment and the defaults.

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use conclave_client::CaId;
use conclave_client::find::{self, Seed};
use tokio::sync::OnceCell;

use crate::args::Global;
use crate::exit::{Exit, Failed};
use crate::identify::Identified;
use crate::known::{Cluster, Known};
use crate::login::{self, LogIns};
use crate::parse;
use crate::search::Search;
use crate::secret::Token;

/// The file of members in the state directory.
const MEMBERS: &str = "members";

/// The configuration of a client command.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where to search for servers.
    pub(crate) find: find::Options,
    /// The shared search for servers.
    pub(crate) search: Arc<Search>,
    /// The user's name if it was given.
    pub(crate) given_user: Option<String>,
    /// The name of the user of this system.
    pub(crate) system_user: String,
    /// The token of a log-in that the environment gives to a program.
    pub(crate) token: Option<Token>,
    /// The name of the user whose token that is, once the cluster has told it.
    pub(crate) token_user: Arc<OnceLock<String>>,
    /// Where sessions and outboxes are kept.
    pub(crate) state_dir: PathBuf,
    /// One JSON object a line on stdout.
    pub(crate) json: bool,
    /// Nothing on stderr but errors.
    pub(crate) quiet: bool,
    /// Whether servers, a name server or a zone were given. They name the cluster then.
    pub(crate) given: bool,
    /// The cluster that is meant, if it was given by its name, or if nothing was given and there is a current one.
    pub(crate) cluster: Option<Cluster>,
    /// Whether any cluster at the given servers is taken, whatever was met there before.
    pub(crate) anew: bool,
    /// Whether a person reads the output.
    pub(crate) for_people: bool,
    /// The certificate authority that was given with the servers.
    pub(crate) authority: Option<CaId>,
    /// Whether a cluster without TLS is spoken to although nothing is known about it.
    pub(crate) insecure: bool,
    /// The cluster, once it is identified.
    pub(crate) identified: Arc<OnceCell<Identified>>,
    /// The timeout for the cluster.
    pub(crate) timeout: Duration,
    /// The style of output.
    pub(crate) style: Style,
}

/// The capabilities of the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether to use colours on stdout.
    pub(crate) color: bool,
    /// Whether to use characters beyond ASCII.
    pub(crate) unicode: bool,
}

/// The variable with the token of a log-in, for programs.
pub(crate) const TOKEN_VARIABLE: &str = "CONCLAVE_TOKEN";

/// Stands for a state directory where the environment names none: nothing is in it, and nothing can be.
pub(crate) const NO_STATE_DIR: &str = "/dev/null";

/// The environment as a value, so that [`resolve`] can be tested.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    user: Option<String>,
    token: Option<String>,
    home: Option<PathBuf>,
    state_home: Option<PathBuf>,
    data_home: Option<PathBuf>,
    no_color: bool,
    dumb: bool,
    locale: String,
    stdout_is_terminal: bool,
}

impl Environment {
    /// This process's environment.
    pub(crate) fn read() -> Self {
        let text = |key: &str| env::var(key).ok().filter(|value| !value.is_empty());
        let path = |key: &str| {
            let absolute = |path: &PathBuf| path.is_absolute();
            env::var_os(key).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from).filter(absolute)
        };
        Self {
            user: text("USER").or_else(|| text("LOGNAME")),
            token: text(TOKEN_VARIABLE),
            home: path("HOME"),
            state_home: path("XDG_STATE_HOME"),
            data_home: path("XDG_DATA_HOME"),
            no_color: text("NO_COLOR").is_some(),
            dumb: text("TERM").is_none_or(|term| term == "dumb"),
            locale: text("LC_ALL").or_else(|| text("LC_CTYPE")).or_else(|| text("LANG")).unwrap_or_default(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
        }
    }

    /// The default directory of `conclave up`.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Failed> {
        self.data_home
            .clone()
            .or_else(|| self.home.as_ref().map(|home| home.join(".local/share")))
            .map(|dir| dir.join("conclave"))
            .ok_or_else(|| {
                Failed::new(Exit::Usage, "neither XDG_DATA_HOME nor HOME is set", "give --dir DIR")
            })
    }

    /// The style of output on this terminal.
    pub(crate) fn style(&self, no_color: bool) -> Style {
        let locale = self.locale.to_ascii_lowercase();
        Style {
            color: self.stdout_is_terminal && !self.dumb && !self.no_color && !no_color,
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// The default directory of sessions and unsent messages.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        let home = || self.home.as_ref().map(|home| home.join(".local/state"));
        self.state_home.clone().or_else(home).map(|dir| dir.join("conclave"))
    }
}

/// Resolves the settings: the command line overrides the environment, which overrides the defaults.
pub(crate) fn resolve(global: &Global, environment: &Environment) -> Result<Settings, Failed> {
    let token = match &environment.token {
        Some(text) => Some(login::token(text.as_bytes()).ok_or_else(|| {
            let what = format!("{TOKEN_VARIABLE} has no token of conclave");
            Failed::new(Exit::Usage, what, "make one with: conclave token create")
        })?),
        None => None,
    };
    let state_dir = match &global.state_dir {
        Some(dir) => dir.clone(),
        // Commands that keep nothing need no directory.
        None => environment.state_dir().unwrap_or_else(|| NO_STATE_DIR.into()),
    };
    let mut seeds = seeds(global);
    let given = !seeds.is_empty();
    let known = Known::new(&state_dir);
    let cluster = match &global.context {
        Some(text) => Some(context(&known, text)?),
        None if given => None,
        None => known.current(),
    };
    if let Some(cluster) = cluster.as_ref().filter(|_| !given) {
        seeds = cluster.seeds();
    }
    let find = find::Options {
        seeds,
        name_servers: global.name_servers.clone(),
        members: Some(state_dir.join(MEMBERS)),
        ..find::Options::default()
    };
    let authority = authority(&find.seeds)?;
    Ok(Settings {
        given,
        cluster,
        anew: false,
        for_people: environment.stdout_is_terminal && !global.json && !global.quiet,
        authority,
        insecure: global.insecure,
        identified: Arc::default(),
        search: Search::new(find.clone()),
        find,
        given_user: global.user.clone(),
        system_user: parse::sanitised_user(environment.user.as_deref().unwrap_or_default()),
        token,
        token_user: Arc::default(),
        state_dir,
        json: global.json,
        quiet: global.quiet,
        timeout: global.timeout,
        style: environment.style(global.no_color),
    })
}

/// The known cluster of this name.
///
/// # Errors
/// If there is none, or more than one.
pub(crate) fn context(known: &Known, text: &str) -> Result<Cluster, Failed> {
    let mut meant = known.clusters();
    meant.retain(|cluster| cluster.is_meant(text));
    match meant.len() {
        1 => Ok(meant.remove(0)),
        0 => {
            let what = format!("no cluster {text:?} is known here");
            Err(Failed::new(
                Exit::Usage,
                what,
                "`conclave use` lists the clusters, `conclave use HOST:PORT` adds one",
            ))
        }
        _ => {
            let ids: Vec<&str> = meant.iter().map(|cluster| cluster.id.as_str()).collect();
            let what = format!("{} clusters are named {text:?}: {}", ids.len(), ids.join(", "));
            Err(Failed::new(
                Exit::Usage,
                what,
                "give the beginning of its id, or name it: conclave use ID --name NAME",
            ))
        }
    }
}

impl Settings {
    /// The name as which the command acts in a cluster: the one that was given, that of the token in the environment, that of the
    /// last log-in in the cluster, or that of the system's user.
    pub(crate) fn user_in(&self, cluster_id: &str) -> String {
        let given = self.given_user.clone().or_else(|| self.token_user.get().cloned());
        given
            .or_else(|| LogIns::new(&self.state_dir).user(cluster_id))
            .unwrap_or_else(|| self.system_user.clone())
    }

    /// The name as which the command acts in its cluster.
    pub(crate) fn user(&self) -> String {
        let identified = self.identified.get().and_then(|cluster| cluster.id.clone());
        let id = identified.or_else(|| self.cluster.as_ref().map(|cluster| cluster.id.clone()));
        let id = id.or_else(|| Known::new(&self.state_dir).recorded(&self.asked()));
        self.user_in(id.as_deref().unwrap_or_default())
    }

    /// The same settings for other servers, whatever cluster they belong to.
    ///
    /// # Errors
    /// If the seeds name two clusters.
    pub(crate) fn anew(&self, seeds: Vec<Seed>) -> Result<Self, Failed> {
        let authority = authority(&seeds)?;
        let find = find::Options { seeds, ..self.find.clone() };
        Ok(Self {
            search: Search::new(find.clone()),
            find,
            given: true,
            cluster: None,
            anew: true,
            authority,
            identified: Arc::default(),
            ..self.clone()
        })
    }

    /// The same settings for a server of a cluster of which the id alone is known.
    pub(crate) fn expecting(&self, cluster_id: String, seed: Seed) -> Self {
        let find = find::Options { seeds: vec![seed], ..self.find.clone() };
        Self {
            search: Search::new(find.clone()),
            find,
            given: true,
            cluster: Some(Cluster { id: cluster_id, ..Cluster::default() }),
            anew: false,
            authority: None,
            identified: Arc::default(),
            ..self.clone()
        }
    }

    /// The searched servers as text: the key under which the cluster is recorded.
    pub(crate) fn asked(&self) -> String {
        match self.find.seeds.as_slice() {
            [] => self.find.zone.clone(),
            seeds => seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        }
    }
}

/// The seeds of the search. A given server, name server or zone means one cluster, so it becomes a seed: the local
/// network and the default addresses could lead to another cluster.
fn seeds(global: &Global) -> Vec<Seed> {
    let given: Vec<Seed> = global.servers.iter().flat_map(|seeds| seeds.0.clone()).collect();
    let names_cluster = !global.name_servers.is_empty() || global.zone != find::ZONE;
    if given.is_empty() && names_cluster {
        vec![Seed::Zone { zone: global.zone.clone(), name_servers: global.name_servers.clone() }]
    } else {
        given
    }
}

/// The certificate authority that the seeds name.
fn authority(seeds: &[Seed]) -> Result<Option<CaId>, Failed> {
    let mut named = seeds.iter().filter_map(|seed| match seed {
        Seed::Pinned { authority, .. } => Some(*authority),
        Seed::Node(_) | Seed::Zone { .. } => None,
    });
    let first = named.next();
    if let Some(other) = named.find(|other| Some(*other) != first) {
        let what = format!("the servers are of two clusters, one of them {other}");
        return Err(Failed::new(Exit::Usage, what, "give servers of one cluster"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

    fn settings(words: &[&str], environment: &Environment) -> Result<Settings, Failed> {
        let words = ["conclave"].iter().chain(words).chain(&["version"]);
        resolve(&Args::try_parse_from(words).unwrap().global, environment)
    }

    fn terminal() -> Environment {
        Environment {
            user: Some("Ana".into()),
            home: Some("/home/ana".into()),
            locale: "en_GB.UTF-8".into(),
            stdout_is_terminal: true,
            ..Environment::default()
        }
    }

    #[test]
    fn defaults_find_a_local_cluster() {
        let settings = settings(&[], &terminal()).unwrap();
        assert!(settings.find.seeds.is_empty() && settings.find.mdns);
        assert_eq!(settings.find.defaults, ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]);
        assert_eq!(settings.find.members, Some(PathBuf::from("/home/ana/.local/state/conclave/members")));
        assert_eq!(settings.asked(), "conclave.internal");
        assert_eq!(settings.user(), "ana");
        assert_eq!(settings.state_dir, PathBuf::from("/home/ana/.local/state/conclave"));
        assert_eq!(settings.style, Style { color: true, unicode: true });
    }

    #[test]
    fn flags_win() {
        let words = ["-s", "a,b:7410", "-s", "c", "-u", "bo", "--state-dir", "/s", "--no-color", "--json"];
        let settings = settings(&words, &terminal()).unwrap();
        assert_eq!(settings.asked(), "a:7400,b:7410,c:7400");
        assert_eq!((settings.user().as_str(), settings.json), ("bo", true));
        assert!(!settings.style.color);
    }

    #[test]
    fn the_name_of_the_last_log_in_comes_before_that_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let (state, id) = (dir.path().to_str().unwrap(), "ab".repeat(16));
        LogIns::new(dir.path()).set_user(&id, "bob").unwrap();
        let words = ["--state-dir", state, "-s", "a:1"];
        let user = |words: &[&str]| settings(words, &terminal()).unwrap().user();
        assert_eq!(user(&words), "ana", "the servers are of no known cluster");
        Known::new(dir.path()).record("a:1", &id).unwrap();
        assert_eq!(user(&words), "bob");
        assert_eq!(user(&[&words[..], &["-u", "carol"]].concat()), "carol");
    }

    #[test]
    fn a_damaged_token_is_refused_and_not_repeated() {
        let with = |token: &str| Environment { token: Some(token.into()), ..terminal() };
        let good = settings(&[], &with("cnv1_07\n")).unwrap();
        assert!(good.token.is_some() && !format!("{good:?}").contains("cnv1_07"));
        let failed = settings(&[], &with("hunter2")).unwrap_err();
        assert!(failed.exit == Exit::Usage && !failed.to_string().contains("hunter2"), "{failed}");
    }

    #[test]
    fn a_named_cluster_is_never_replaced_by_another() {
        let asked = |words: &[&str]| settings(words, &terminal()).unwrap().asked();
        assert_eq!(
            asked(&["--name-server", "127.0.0.1:9053,[::1]"]),
            "conclave+srv://conclave.internal?ns=127.0.0.1:9053,[::1]:7453"
        );
        assert_eq!(asked(&["--zone", "Chat.Example."]), "conclave+srv://chat.example");
        assert_eq!(asked(&["--zone", "x", "-s", "n1"]), "n1:7400");
        let both = settings(&["-s", "conclave+srv://x", "--name-server", "127.0.0.1"], &terminal()).unwrap();
        assert_eq!((both.asked().as_str(), both.find.name_servers.len()), ("conclave+srv://x", 1));
    }

    #[test]
    fn colours_are_only_used_on_capable_terminals() {
        for environment in [
            Environment { no_color: true, ..terminal() },
            Environment { dumb: true, ..terminal() },
            Environment { stdout_is_terminal: false, ..terminal() },
        ] {
            assert!(!settings(&[], &environment).unwrap().style.color);
        }
    }

    #[test]
    fn without_a_home_a_command_that_keeps_something_says_what_to_give() {
        let settings = settings(&[], &Environment::default()).unwrap();
        let failed =
            crate::identify::cannot_use(&settings.state_dir, &std::io::ErrorKind::NotADirectory.into());
        assert_eq!((failed.exit, failed.next.as_str()), (Exit::Usage, "give --state-dir DIR"));
    }
}
