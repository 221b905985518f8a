//! The settings of a run: what flags, the environment and the file say together, every value filled.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millstream_operators::config::format_duration;
use millstream_operators::diagnostic::Code;

use crate::kafka::{ClientSettings, Security};
use crate::topology::{Misfit, Runtime, RuntimeKey, Setting, TopicDefaults, Topology, brokers, variable};

/// Where a setting comes from; a later one beats an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// The topology file.
    File,
    /// An environment variable.
    Environment,
    /// A flag of the command.
    Flag,
}

/// How a place is called in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The table of the file.
    pub table: &'static str,
    /// The key there.
    pub key: &'static str,
    /// Which of the places.
    pub origin: Origin,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { table, key, origin } = self;
        match origin {
            Origin::Default => write!(f, "the default of `{table}.{key}`"),
            Origin::File => write!(f, "`{table}.{key}`"),
            Origin::Environment => write!(f, "`{}` of the environment", variable(key)),
            Origin::Flag => write!(f, "`--{key}`"),
        }
    }
}

/// Why a run cannot start with its settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A value cannot be read.
    #[error("{place}: {misfit}")]
    Misfit {
        /// Whose.
        place: Place,
        /// What is wrong.
        misfit: Misfit,
    },
    /// Nobody says where the cluster is.
    #[error(
        "nothing says where the cluster is: write `brokers = \"HOST:9092\"` under `[kafka]`, set `MILLSTREAM_BROKERS`, or give \
         `--brokers HOST:9092`"
    )]
    NoBrokers,
    /// Two values contradict each other.
    #[error("{first} is {first_value}, but {second} is {second_value}: {rule}")]
    Contradiction {
        /// A value.
        first: Place,
        /// As it is written.
        first_value: String,
        /// The other.
        second: Place,
        /// As it is written.
        second_value: String,
        /// What must hold.
        rule: &'static str,
    },
}

impl SettingError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            SettingError::Misfit { misfit, .. } => misfit.code(),
            SettingError::NoBrokers => Code::MissingKey,
            SettingError::Contradiction { .. } => Code::OutOfRange,
        }
    }
}

/// What the flags of a command say.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--brokers`.
    pub brokers: Option<String>,
    /// Flags of the keys of `[runtime]`.
    pub runtime: Vec<(RuntimeKey, String)>,
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Bootstrap servers, `host:port,host:port`.
    pub brokers: Setting,
    /// How connections are protected, and who this is.
    pub security: Security,
    /// Properties of the client library that take the place of the engine's.
    pub properties: Vec<(String, Setting)>,
    /// How topics are made.
    pub topics: TopicDefaults,
    /// Worker threads.
    pub threads: usize,
    /// Where local state lives.
    pub state_dir: PathBuf,
    /// The name of this process, unique in the application; `None`: made once in the state directory.
    pub instance: Option<String>,
    /// The time between two commits.
    pub commit_every: Duration,
    /// Bytes of the one budget for caches, write buffers, staged writes and queues.
    pub memory: usize,
    /// The address of the HTTP server, `host:port`.
    pub listen: String,
    /// Largest number of records of an epoch.
    pub max_batch_rows: usize,
    /// How long a partition without lag is waited for.
    pub max_task_idle: Duration,
    /// Without progress for so long a process leaves the group.
    pub max_poll_interval: Duration,
    /// After so long a silence the group takes a process for gone.
    pub session_timeout: Duration,
    /// After so long the brokers end a transaction that nobody ends.
    pub transaction_timeout: Duration,
    brokers_origin: Origin,
    origins: BTreeMap<RuntimeKey, Origin>,
}

impl RunSettings {
    /// Puts the layers together: a flag beats the environment, which beats the file, which beats the default. An empty
    /// environment variable counts as none.
    ///
    /// # Errors
    /// Every value that cannot be read, or every contradiction.
    pub fn resolve(
        topology: &Topology,
        flags: &Flags,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<SettingError>> {
        let environment = |variable: &str| environment(variable).filter(|value| !value.is_empty());
        let mut errors = Vec::new();
        let mut runtime = topology.runtime.clone();
        let mut origins = BTreeMap::new();
        for key in RuntimeKey::ALL {
            if runtime.has(*key) {
                origins.insert(*key, Origin::File);
            }
            let of_environment = environment(&key.variable()).map(|text| (Origin::Environment, text));
            let of_flags = flags.runtime.iter().filter(|(flag, _)| flag == key);
            let of_flags = of_flags.map(|(_, text)| (Origin::Flag, text.clone()));
            for (origin, text) in of_environment.into_iter().chain(of_flags) {
                match runtime.set(*key, &text) {
                    Ok(()) => drop(origins.insert(*key, origin)),
                    Err(misfit) => errors.push(SettingError::Misfit { place: place(*key, origin), misfit }),
                }
            }
        }

        let of_environment = environment(&variable("brokers")).map(|text| (Origin::Environment, text));
        let of_flag = flags.brokers.clone().map(|text| (Origin::Flag, text));
        let mut servers = topology.kafka.brokers.clone().map(|servers| (Origin::File, servers));
        for (origin, text) in of_environment.into_iter().chain(of_flag) {
            if let Err(misfit) = brokers(&text) {
                let place = Place { table: "kafka", key: "brokers", origin };
                errors.push(SettingError::Misfit { place, misfit });
            }
            servers = Some((origin, Setting::new(text, false)));
        }
        if servers.is_none() {
            errors.push(SettingError::NoBrokers);
        }
        match servers {
            Some((brokers_origin, brokers)) if errors.is_empty() => {
                let settings = RunSettings::filled(topology, &runtime, brokers, brokers_origin, origins);
                let contradictions = settings.contradictions();
                if contradictions.is_empty() { Ok(settings) } else { Err(contradictions) }
            }
            _ => Err(errors),
        }
    }

    fn filled(
        topology: &Topology,
        runtime: &Runtime,
        brokers: Setting,
        brokers_origin: Origin,
        origins: BTreeMap<RuntimeKey, Origin>,
    ) -> Self {
        let kafka = &topology.kafka;
        let duration = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        RunSettings {
            brokers,
            security: kafka.security.clone(),
            properties: kafka.properties.clone(),
            topics: kafka.topics.clone(),
            threads: runtime.threads(),
            state_dir: runtime.state_dir(),
            instance: runtime.instance.clone(),
            commit_every: duration(runtime.commit_every()),
            memory: usize::try_from(runtime.memory()).unwrap_or(usize::MAX),
            listen: runtime.listen().to_owned(),
            max_batch_rows: runtime.max_batch_rows(),
            max_task_idle: duration(runtime.max_task_idle()),
            max_poll_interval: duration(runtime.max_poll_interval()),
            session_timeout: duration(runtime.session_timeout()),
            transaction_timeout: duration(runtime.transaction_timeout()),
            brokers_origin,
            origins,
        }
    }

    /// Values that the clients or the brokers would refuse together.
    fn contradictions(&self) -> Vec<SettingError> {
        use RuntimeKey::{CommitEvery, MaxPollInterval, SessionTimeout, TransactionTimeout};
        const COMMIT: &str = "a transaction must outlast the time between two commits";
        const POLL: &str = "a process must be able to answer the group before it is given up";
        let shown =
            |duration: Duration| format_duration(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let pairs = [
            (CommitEvery, self.commit_every, TransactionTimeout, self.transaction_timeout, COMMIT),
            (SessionTimeout, self.session_timeout, MaxPollInterval, self.max_poll_interval, POLL),
        ];
        let wrong = pairs.into_iter().filter(|(small, less, large, more, _)| {
            less > more || (*small == CommitEvery && *large == TransactionTimeout && less == more)
        });
        let error = |(small, less, large, more, rule)| SettingError::Contradiction {
            first: self.place(small),
            first_value: shown(less),
            second: self.place(large),
            second_value: shown(more),
            rule,
        };
        wrong.map(error).collect()
    }

    /// What the clients of this process are made with; `client_id` is what quotas and broker logs call them.
    pub fn client(&self, client_id: &str) -> ClientSettings {
        let properties = self.properties.iter();
        ClientSettings {
            brokers: self.brokers.reveal().to_owned(),
            client_id: client_id.to_owned(),
            security: self.security.clone(),
            properties: properties.map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect(),
        }
    }

    /// Where a value of `[runtime]` comes from.
    pub fn place(&self, key: RuntimeKey) -> Place {
        place(key, self.origins.get(&key).copied().unwrap_or_default())
    }

    /// Where the brokers' addresses come from.
    pub fn brokers_place(&self) -> Place {
        Place { table: "kafka", key: "brokers", origin: self.brokers_origin }
    }
}

fn place(key: RuntimeKey, origin: Origin) -> Place {
    Place { table: "runtime", key: key.name(), origin }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::read;

    fn topology(runtime: &str) -> Topology {
        let text = format!(
            "[app]\nid = \"shop\"\n{runtime}\n[sources.s]\ntopic = \"s\"\nvalue = {{ a = \"int64\" }}\n[sinks.o]\nfrom = \"s\"\n"
        );
        let (topology, findings) = read(&text, Path::new("."), &|_| None);
        topology.unwrap_or_else(|| panic!("{findings:?}"))
    }

    fn flags(runtime: &[(RuntimeKey, &str)]) -> Flags {
        let runtime = runtime.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        Flags { brokers: Some("127.0.0.1:1".to_owned()), runtime }
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_the_file() {
        let topology =
            topology("[runtime]\nthreads = 2\nmemory = \"64MiB\"\ncommit-every = \"1s\"\nlisten = \"a:1\"");
        let environment = |name: &str| match name {
            "MILLSTREAM_MEMORY" => Some("128MiB".to_owned()),
            "MILLSTREAM_COMMIT_EVERY" => Some("2s".to_owned()),
            "MILLSTREAM_LISTEN" => Some(String::new()),
            "MILLSTREAM_BROKERS" => Some("b:1".to_owned()),
            _ => None,
        };
        let settings =
            RunSettings::resolve(&topology, &flags(&[(RuntimeKey::CommitEvery, "3s")]), &environment)
                .unwrap();
        assert_eq!(settings.threads, 2);
        assert_eq!(settings.memory, 128 << 20);
        assert_eq!(settings.commit_every, Duration::from_secs(3));
        assert_eq!(settings.listen, "a:1");
        assert_eq!(settings.brokers.reveal(), "127.0.0.1:1");
        assert_eq!(settings.session_timeout, Duration::from_secs(45));
        let place = |key| settings.place(key).to_string();
        assert_eq!(place(RuntimeKey::Threads), "`runtime.threads`");
        assert_eq!(place(RuntimeKey::Memory), "`MILLSTREAM_MEMORY` of the environment");
        assert_eq!(place(RuntimeKey::CommitEvery), "`--commit-every`");
        assert_eq!(place(RuntimeKey::SessionTimeout), "the default of `runtime.session-timeout`");
        assert_eq!(settings.brokers_place().to_string(), "`--brokers`");
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_place() {
        let environment = |name: &str| (name == "MILLSTREAM_MEMORY").then(|| "much".to_owned());
        let flags = Flags { brokers: None, ..flags(&[(RuntimeKey::Threads, "0")]) };
        let errors = RunSettings::resolve(&topology(""), &flags, &environment).unwrap_err();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let codes: Vec<&str> = errors.iter().map(|error| error.code().number()).collect();
        assert_eq!(codes, ["M0109", "M0117", "M0103"]);
        assert_eq!(said[0], "`--threads`: it is out of range: expected 1 to 1024");
        assert!(said[1].starts_with("`MILLSTREAM_MEMORY` of the environment: `much` is not a size; write"));
        assert!(said[2].contains("--brokers HOST:9092"));
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let topology = topology("[runtime]\ntransaction-timeout = \"10s\"");
        let said = |runtime: &[(RuntimeKey, &str)]| match RunSettings::resolve(
            &topology,
            &flags(runtime),
            &|_| None,
        ) {
            Ok(_) => String::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        };
        assert_eq!(said(&[(RuntimeKey::CommitEvery, "9s")]), "");
        assert_eq!(
            said(&[(RuntimeKey::CommitEvery, "10s")]),
            "`--commit-every` is 10s, but `runtime.transaction-timeout` is 10s: a transaction must outlast the time between \
             two commits"
        );
        assert_eq!(
            said(&[(RuntimeKey::MaxPollInterval, "30s")]),
            "the default of `runtime.session-timeout` is 45s, but `--max-poll-interval` is 30s: a process must be able to \
             answer the group before it is given up"
        );
    }
}
