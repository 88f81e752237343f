//! Connections against a real server, with `psql` as the judge: what it reaches we reach, what it refuses we refuse.
#![allow(clippy::unwrap_used)]

mod connection {
    pub mod certificates;
    pub mod cluster;
    pub mod oracle;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use connection::certificates::Certificates;
use connection::cluster::{Cluster, free_port, run};
use connection::oracle::{Case, ONCE, account, agree, child_agrees, resolve};
use pgkeep::config::environment::Environment;
use pgkeep::config::secret::Secret;
use pgkeep::error::Kind;
use pgkeep::pg::conninfo::{ConnectTarget, ConnectionFlags, InstanceServer};
use pgkeep::pg::session::{Access, ChildConnection, Encryption, Session, SessionOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ROLES: &str = r#"
    CREATE ROLE app LOGIN PASSWORD 'pa:ss\word';
    CREATE ROLE "we ird:\" LOGIN PASSWORD 'weird';
    CREATE ROLE trusted LOGIN;
    CREATE ROLE tlsonly LOGIN PASSWORD 'tls';
    CREATE ROLE plainonly LOGIN PASSWORD 'plain';
    CREATE ROLE clear LOGIN PASSWORD 'clear';
    CREATE ROLE certuser LOGIN;
    CREATE ROLE oldhash LOGIN PASSWORD 'md56a5b5d0ee71d8e4e9c0b0a0f0e0d0c0b';
    CREATE DATABASE app;
    CREATE DATABASE "a=b 'c\";
    ALTER ROLE app SET statement_timeout = 100000;
    ALTER ROLE app SET search_path = public;
    ALTER ROLE app SET idle_session_timeout = 100000;
    ALTER ROLE app SET lock_timeout = 1;
"#;

fn rules() -> String {
    format!(
        "local all postgres trust\nlocal all {} peer\nlocal all trusted trust\nlocal all clear password\n\
         local all certuser peer\nlocal all all scram-sha-256\n\
         hostssl all tlsonly all scram-sha-256\nhostnossl all plainonly all scram-sha-256\n\
         hostssl all certuser all cert\nhost all certuser all reject\nhost all tlsonly all reject\n\
         host all plainonly all reject\nhost all trusted all trust\nhost all oldhash all md5\n\
         host all clear all password\nhost all postgres all reject\nhost all all all scram-sha-256\n",
        account()
    )
}

fn cluster() -> Cluster {
    let cluster = Cluster::new(&rules());
    cluster.start();
    cluster.admin(ROLES);
    cluster.admin("SET password_encryption = 'md5'; ALTER ROLE oldhash PASSWORD 'old'");
    // Where the tests run as postgres the role is there already.
    if account() != "postgres" {
        cluster.admin(&format!("CREATE ROLE \"{0}\" LOGIN; CREATE DATABASE \"{0}\"", account()));
    }
    cluster
}

fn write(path: &std::path::Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A home directory with these files, all of mode 0600.
fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(&home.path().join(name), text, 0o600);
    }
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_environment_and_files_resolve_as_for_psql() {
    let server = cluster();
    let (port, socket, dead) = (server.port(), server.socket_dir().to_owned(), free_port());
    let encoded = socket.replace('/', "%2F");
    let pgpass = format!(
        "# comment\nlocalhost:{port}:app:app:pa\\:ss\\\\word\nlocalhost:*:*:app:wrong\n\
         127.0.0.1:{port}:*:app:pa\\:ss\\\\word\n*:{port}:*:we ird\\:\\\\:weird\n*:*:*:tlsonly:tls:ignored\n\
         *:*:*:plainonly:plain\n*:*:*:oldhash:old\n{socket}:*:*:clear:clear\n*:*:*:clear:\n*:*:*:clear:clear\n"
    );
    let services = format!(
        "[main]\nhost=127.0.0.1\nport={port}\nuser=trusted\ndbname=app\napplication_name=from service\n\
         [next]\nhost=nowhere.invalid\n[nested]\nservice=main\n[spaced]\nhost = 127.0.0.1\n[unknown]\nhots=a\n"
    );
    let to_socket = |section: &str| format!("[{section}]\nhost={socket}\nport={port}\nuser=trusted\ndbname=app\n");
    let home = home(&[
        (".pgpass", &pgpass),
        (".pg_service.conf", &services),
        ("other_service.conf", &to_socket("other")),
        ("pg_service.conf", &to_socket("system")),
        ("pgpass-dos", &pgpass.replace('\n', "\r\n")),
    ]);
    let homeless = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    for (name, mode) in [("pgpass-0400", 0o400), ("pgpass-0640", 0o640), ("pgpass-0604", 0o604)] {
        write(&home.path().join(name), &pgpass, mode);
    }

    let case = |name: &str| Case::new(name).env("HOME", home.path().to_str().unwrap()).env("PGPORT", &port.to_string());
    let tcp = |name: &str| case(name).env("PGHOST", "127.0.0.1");
    let trusted = |name: &str| tcp(name).user("trusted").dbname("app");
    let string = |name: &str, string: &str| case(name).dbname(string);
    let places = [
        case("peer over the socket").env("PGHOST", &socket),
        case("peer with another role").env("PGHOST", &socket).user("certuser"),
        tcp("all from the environment").env("PGUSER", "trusted").env("PGDATABASE", "app").env("PGAPPNAME", "named"),
        tcp("database defaults to the user").env("PGUSER", "app"),
        trusted("flags beat the environment").env("PGUSER", "nobody"),
        tcp("an empty flag is none").env("PGUSER", "trusted").user("").dbname("app"),
        tcp("an empty variable").env("PGUSER", "").dbname("app"),
        tcp("a string beats flags").host("nowhere.invalid").dbname("host=127.0.0.1 user=trusted dbname=app"),
        tcp("PGDATABASE is only a name").env("PGUSER", "trusted").env("PGDATABASE", "a=b 'c\\"),
        tcp("a quoted name").user("trusted").dbname(r"dbname='a=b \'c\\'"),
        tcp("a bare name with = is a string").user("trusted").dbname("a=b"),
        case("hostaddr").env("PGHOSTADDR", "127.0.0.1").user("trusted").dbname("app"),
        case("hostaddr beats the name").dbname("host=nowhere.invalid hostaddr=127.0.0.1 user=trusted dbname=app"),
        case("hostaddr finds a password by address").env("PGHOSTADDR", "127.0.0.1").user("app"),
        case("hostaddr is no name").env("PGHOSTADDR", "localhost").user("trusted").dbname("app"),
        case("localhost has two addresses").host("localhost").user("trusted").dbname("app"),
        case("no such name").host("nowhere.invalid").user("trusted").dbname("app"),
        case("no such socket").host("/nonexistent").user("trusted").dbname("app"),
        case("abstract socket").host(&server.abstract_socket()).user("trusted").dbname("app"),
        case("no such abstract socket").host("@pgkeep-none").user("trusted").dbname("app"),
        trusted("nobody listens").port(&dead.to_string()),
        trusted("a port that is none").port("54x"),
        trusted("a port with spaces").port(&format!(" {port} ")),
        trusted("port 0").port("0"),
        string("first dead", &format!("postgresql://trusted@127.0.0.1:{dead},127.0.0.1:{port}/app")),
        string("first unknown", &format!("postgresql://trusted@nowhere.invalid,{encoded}/app")),
        string("all dead", &format!("postgresql://trusted@127.0.0.1:{dead},localhost:{dead}/app")),
        trusted("two hosts, one port").host("/nonexistent,127.0.0.1"),
        trusted("two hosts, three ports").host("a,b").port("1,2,3"),
        string("a refused login is final", &format!("postgresql://app:bad@127.0.0.1:{port},{encoded}:{port}/app")),
        string("hosts and addresses differ in number", "host=a,b hostaddr=127.0.0.1"),
        trusted("requirepeer is nothing to TCP").env("PGREQUIREPEER", "nobody"),
        case("requirepeer fits").env("PGREQUIREPEER", &server.account()).host(&socket).user("trusted").dbname("app"),
        case("requirepeer does not fit").env("PGREQUIREPEER", "nobody").host(&socket).user("trusted").dbname("app"),
    ];
    let spellings = [
        string("uri", &format!("postgres://trusted@127.0.0.1:{port}/app?application_name=a%20b")),
        string("uri with socket", &format!("postgresql://trusted@{encoded}/app")),
        string("uri with socket as parameter", &format!("postgresql:///app?host={socket}&user=trusted")),
        string("uri with password", &format!("postgresql://app:pa%3Ass%5Cword@127.0.0.1:{port}/app")),
        string("uri with quoted user", "postgresql://we%20ird%3A%5C@127.0.0.1/app"),
        string("uri with unknown parameter", "postgresql://trusted@127.0.0.1/app?hots=1"),
        string("uri with bad percent", "postgresql://trusted@127.0.0.1/%zz"),
        string("uri with NUL", "postgresql://trusted@127.0.0.1/a%00b"),
        string("uri with open bracket", "postgresql://trusted@[::1/app"),
        string("uri with IPv6", &format!("postgresql://trusted@[::1]:{dead},127.0.0.1:{port}/app")),
        string("uri with ssl=true", &format!("postgresql://trusted@127.0.0.1:{port}/app?ssl=true")),
        tcp("uri with nothing").env("PGUSER", "trusted").dbname("postgresql://"),
        tcp("uri beats the environment").env("PGAPPNAME", "e").dbname("postgres://trusted@/app?application_name=u"),
        string("keyword without value", "host="),
        string("keyword with open quote", "host='127.0.0.1"),
        string("keyword unknown", "hots=127.0.0.1"),
        string("escapes", r"host=127.0.0.1 user=we\ ird:\\ dbname='app'application_name='it\'s'"),
        string("spaces around =", "host = 127.0.0.1  user= trusted dbname =app"),
        string("the last value counts", "host=nowhere.invalid host=127.0.0.1 user=trusted dbname=app"),
        trusted("options").env("PGOPTIONS", "-c datestyle=sql -c application_name=opt"),
        trusted("bad options").env("PGOPTIONS", "-c nonsense=1"),
        trusted("sslmode unknown").env("PGSSLMODE", "yes"),
        trusted("sslmode empty").env("PGSSLMODE", ""),
        trusted("sslmode required, server without TLS").env("PGSSLMODE", "require"),
        trusted("sslmode allow").env("PGSSLMODE", "allow"),
        trusted("PGREQUIRESSL").env("PGREQUIRESSL", "1"),
        string("requiressl", "host=127.0.0.1 user=trusted dbname=app requiressl=0"),
        case("no TLS on sockets").env("PGSSLMODE", "verify-full").host(&socket).user("trusted").dbname("app"),
        tcp("channel binding without TLS").env("PGCHANNELBINDING", "require").user("app"),
        tcp("channel binding unknown").env("PGCHANNELBINDING", "x").user("app"),
        trusted("gss preferred").env("PGGSSENCMODE", "prefer"),
        trusted("gss required").env("PGGSSENCMODE", "require"),
        trusted("connect_timeout").env("PGCONNECT_TIMEOUT", "5"),
        trusted("connect_timeout unreadable").env("PGCONNECT_TIMEOUT", "5s"),
        trusted("attributes unknown").env("PGTARGETSESSIONATTRS", "x"),
        tcp("keepalives")
            .user("trusted")
            .dbname("dbname=app keepalives_idle=5 keepalives_count=2 keepalives_interval=3 tcp_user_timeout=1000"),
        tcp("no keepalives").user("trusted").dbname("dbname=app keepalives=0"),
        tcp("keepalives unreadable").user("trusted").dbname("dbname=app keepalives_idle=x"),
    ];
    let passwords = [
        tcp("password from pgpass").user("app"),
        case("first line per host wins").host("localhost").user("app").dbname("postgres"),
        tcp("PGPASSWORD beats pgpass").env("PGPASSWORD", "bad").user("app"),
        tcp("empty PGPASSWORD is none").env("PGPASSWORD", "").user("app"),
        tcp("PGPASSFILE 0400").env("PGPASSFILE", &path("pgpass-0400")).user("app"),
        tcp("PGPASSFILE 0640").env("PGPASSFILE", &path("pgpass-0640")).user("app"),
        tcp("PGPASSFILE 0604").env("PGPASSFILE", &path("pgpass-0604")).user("app"),
        tcp("PGPASSFILE with CRLF").env("PGPASSFILE", &path("pgpass-dos")).user("app"),
        tcp("PGPASSFILE missing").env("PGPASSFILE", "/nonexistent").user("app"),
        tcp("PGPASSFILE empty").env("PGPASSFILE", "").user("app"),
        tcp("PGPASSFILE is a directory").env("PGPASSFILE", "/").user("app"),
        tcp("passfile parameter").env("HOME", "/").dbname(&format!("user=app passfile={}", path("pgpass-0400"))),
        tcp("nothing at home").env("HOME", homeless.path().to_str().unwrap()).user("app"),
        tcp("escaped user").user("we ird:\\").dbname("app"),
        tcp("md5").user("oldhash").dbname("app"),
        case("cleartext over the socket").host(&socket).user("clear").dbname("app"),
        tcp("an empty password hides later lines").user("clear").dbname("app"),
        tcp("no such role").user("nobody").dbname("app"),
        tcp("no such database").user("trusted").dbname("none"),
        tcp("rejected by pg_hba.conf").user("postgres"),
        tcp("hostnossl").user("plainonly").dbname("app"),
        tcp("hostssl without TLS").user("tlsonly").dbname("app"),
    ];
    let services = [
        case("service").env("PGSERVICE", "main"),
        case("service beats the environment").env("PGSERVICE", "main").env("PGUSER", "nobody").env("PGHOST", "x"),
        case("flags beat the service").env("PGSERVICE", "main").dbname("postgres"),
        string("service in a string", "service=main application_name=mine"),
        string("service in a uri", "postgresql:///postgres?service=main"),
        case("service in another file").env("PGSERVICE", "other").env("PGSERVICEFILE", &path("other_service.conf")),
        case("service file missing").env("PGSERVICE", "main").env("PGSERVICEFILE", "/nonexistent"),
        case("service of the system").env("PGSERVICE", "system").env("PGSYSCONFDIR", home.path().to_str().unwrap()),
        case("service unknown").env("PGSERVICE", "none").env("PGSYSCONFDIR", "/nonexistent"),
        case("service empty").env("PGSERVICE", "").env("PGSYSCONFDIR", "/nonexistent").host(&socket),
        case("service nested").env("PGSERVICE", "nested"),
        case("service with spaces").env("PGSERVICE", "spaced"),
        case("service with an unknown key").env("PGSERVICE", "unknown"),
    ];
    let mut reached = 0;
    for case in places.iter().chain(&spellings).chain(&passwords).chain(&services) {
        if let Some((target, session)) = agree(case).await {
            reached += 1;
            child_agrees(case, &target, &session);
        }
    }
    // A table of failures would agree with anything.
    assert!(reached > 50, "only {reached} cases reach the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sslmode_judges_every_certificate_as_psql_does() {
    let certificates = Certificates::new();
    let server = cluster();
    let home = home(&[]);
    let (mut with_tls, mut refused) = (0, 0);
    for certificate in ["good", "cn", "wrong", "wild", "v1", "self", "leaf", "expired"] {
        server.use_certificate(&certificates, certificate);
        for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
            for root in ["", "ca", "other", "self", "leaf", "missing"] {
                for host in ["localhost", "127.0.0.1"] {
                    let mut case = Case::new(&format!("{certificate} certificate, {mode}, root {root:?}, {host}"))
                        .env("HOME", home.path().to_str().unwrap())
                        .env("PGSSLMODE", mode)
                        .env("PGPORT", &server.port().to_string())
                        .host(host)
                        .user("trusted")
                        .dbname("app");
                    if !root.is_empty() {
                        case = case.env("PGSSLROOTCERT", &certificates.path(&format!("{root}.crt")));
                    }
                    match agree(&case).await {
                        Some((_, session)) => with_tls += i32::from(session.endpoint().encryption == Encryption::Tls),
                        None => refused += 1,
                    }
                }
            }
        }
    }
    assert!(with_tls > 100 && refused > 100, "{with_tls} with TLS, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_logins_agree_with_psql() {
    let certificates = Certificates::new();
    let server = cluster();
    server.use_certificate(&certificates, "good");
    let home = home(&[(".pgpass", "*:*:*:app:pa\\:ss\\\\word\n*:*:*:tlsonly:tls\n*:*:*:plainonly:plain\n")]);
    let own = home.path().join(".postgresql");
    std::fs::create_dir(&own).unwrap();
    let case = |name: &str| {
        Case::new(name)
            .env("HOME", home.path().to_str().unwrap())
            .env("PGHOST", "localhost")
            .env("PGPORT", &server.port().to_string())
            .dbname("app")
    };
    let path = |name: &str| certificates.path(name);
    let app = |name: &str| case(name).user("app");
    let checked = |name: &str, mode: &str| app(name).env("PGSSLMODE", mode).env("PGSSLROOTCERT", &path("ca.crt"));
    let certified = |name: &str, cert: &str, key: &str| {
        case(name).user("certuser").env("PGSSLCERT", &path(cert)).env("PGSSLKEY", &path(key))
    };
    let key = std::fs::read_to_string(path("client.key")).unwrap();
    write(path("open.key").as_ref(), &key, 0o644);
    let cases = [
        app("scram over TLS"),
        app("channel binding required").env("PGCHANNELBINDING", "require"),
        case("channel binding required of trust").user("trusted").env("PGCHANNELBINDING", "require"),
        app("channel binding disabled").env("PGCHANNELBINDING", "disable"),
        app("channel binding without TLS").env("PGCHANNELBINDING", "require").env("PGSSLMODE", "disable"),
        case("hostssl by prefer").user("tlsonly"),
        case("hostssl by allow").user("tlsonly").env("PGSSLMODE", "allow"),
        case("hostssl by disable").user("tlsonly").env("PGSSLMODE", "disable"),
        case("hostnossl by prefer").user("plainonly"),
        case("hostnossl by require").user("plainonly").env("PGSSLMODE", "require"),
        app("wrong password with prefer").env("PGPASSWORD", "bad"),
        app("TLS 1.2").env("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"),
        app("TLS 1.3").env("PGSSLMINPROTOCOLVERSION", "tlsv1.3"),
        app("TLS backwards").env("PGSSLMINPROTOCOLVERSION", "TLSv1.3").env("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"),
        app("TLS unknown").env("PGSSLMINPROTOCOLVERSION", "TLSv2"),
        app("no server name").env("PGSSLSNI", "0").env("PGSSLMODE", "require"),
        checked("verify-full by address only", "verify-full").env("PGHOST", "").env("PGHOSTADDR", "127.0.0.1"),
        checked("verify-full by name and address", "verify-full").env("PGHOSTADDR", "127.0.0.1"),
        checked("not revoked", "verify-ca").env("PGSSLCRL", &path("empty.crl")),
        checked("revoked", "verify-ca").env("PGSSLCRL", &path("good.crl")),
        checked("TLS 1.2 checked", "verify-full").env("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"),
        certified("client certificate", "client.crt", "client.key"),
        certified("client certificate of another", "other-client.crt", "other-client.key"),
        certified("client certificate of version 1", "client-v1.crt", "client-v1.key"),
        certified("client certificate with the wrong key", "client.crt", "other-client.key"),
        certified("client certificate without key", "client.crt", "none.key"),
        certified("client key open to others", "client.crt", "open.key").env("PGSSLMODE", "require"),
        certified("client certificate missing", "none.crt", "none.key"),
        case("no client certificate").user("certuser").env("PGSSLMODE", "require"),
    ];
    let mut reached = 0;
    for case in &cases {
        if let Some((target, session)) = agree(case).await {
            reached += 1;
            child_agrees(case, &target, &session);
        }
    }
    assert!(reached > 12, "only {reached} cases reach the server");
    through_a_tunnel(&server, &path("ca.crt")).await;

    // The same files under their usual names.
    let usual = |from: &str, to: &str| {
        write(&own.join(to), &std::fs::read_to_string(path(from)).unwrap(), 0o600);
    };
    usual("client.crt", "postgresql.crt");
    usual("client.key", "postgresql.key");
    usual("other.crt", "root.crt");
    assert!(agree(&app("usual root certificate of another authority").env("PGSSLMODE", "require")).await.is_none());
    usual("ca.crt", "root.crt");
    let by_certificate = case("usual names").env("PGSSLMODE", "verify-full").user("certuser");
    let (target, session) = agree(&by_certificate).await.expect("a connection");
    child_agrees(&by_certificate, &target, &session);
    usual("good.crl", "root.crl");
    assert!(agree(&app("usual list of the revoked").env("PGSSLMODE", "require")).await.is_none());

    // Version 1 certificates also in the older protocol, where signatures are checked in another way.
    server.use_certificate(&certificates, "v1");
    std::fs::remove_file(own.join("root.crl")).unwrap();
    assert!(
        agree(&checked("version 1 over TLS 1.2", "verify-full").env("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"))
            .await
            .is_some()
    );
}

/// The certificate is held against the name of the server, and nothing else of the name is looked at.
async fn through_a_tunnel(server: &Cluster, ca: &str) {
    let connect = async |host: &str| {
        let conninfo = format!(
            "host={host} port=5432 user=app dbname=app password='pa:ss\\\\word' sslmode=verify-full sslrootcert={ca}"
        );
        let conninfo = Some(Secret::new(conninfo));
        let instance = Some(InstanceServer { conninfo, password: None, tunnel_port: Some(server.port()) });
        let environment = Environment::default().with_account("root");
        let flags = ConnectionFlags { instance, ..ConnectionFlags::default() };
        let target = ConnectTarget::resolve(&flags, &environment).unwrap();
        let session = Session::connect(&target, &ONCE).await?;
        Ok::<_, pgkeep::error::Error>((target, session))
    };
    let (target, session) = connect("localhost").await.unwrap();
    let endpoint = session.endpoint();
    assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.encryption), ("localhost", 5432, Encryption::Tls));
    assert_eq!(endpoint.address.unwrap().port(), server.port());
    let scratch = tempfile::tempdir().unwrap();
    let child = ChildConnection::new(&target, endpoint, scratch.path()).unwrap();
    connection::oracle::pass_on(&child);
    let mut psql = std::process::Command::new(format!("{}/psql", connection::cluster::BIN));
    psql.env_clear().envs(child.variables()).args(["-XAtqw", "-c", "SELECT inet_server_port()"]);
    assert_eq!(run(&mut psql), server.port().to_string());
    let error = connect("db.nowhere.invalid").await.unwrap_err().to_string();
    assert!(error.contains("db.nowhere.invalid") && error.contains("TLS"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_with_the_wanted_attributes_is_chosen() {
    let primary = cluster();
    let standby = Cluster::new(&rules());
    standby.start();
    standby.admin("CREATE ROLE trusted LOGIN; CREATE DATABASE app");
    standby.restart_as_standby();
    let (p, s) = (primary.port(), standby.port());
    let case = |wanted: &str, hosts: &str, ports: &str| {
        Case::new(&format!("{wanted} of {ports}"))
            .env("HOME", "/")
            .env("PGTARGETSESSIONATTRS", wanted)
            .host(hosts)
            .port(ports)
            .user("trusted")
            .dbname("app")
    };
    let mut on_standby = 0;
    for wanted in ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"] {
        for ports in [format!("{p},{s}"), format!("{s},{p}"), p.to_string(), s.to_string()] {
            let hosts = if ports.contains(',') { "127.0.0.1,127.0.0.1" } else { "127.0.0.1" };
            let case = case(wanted, hosts, &ports);
            if let Some((target, session)) = agree(&case).await {
                child_agrees(&case, &target, &session);
                assert_eq!(session.in_recovery(), session.endpoint().port == s);
                on_standby += i32::from(session.in_recovery());
            }
        }
    }
    assert!(on_standby > 5, "{on_standby}");
    primary.admin("ALTER ROLE trusted SET default_transaction_read_only = on");
    for (wanted, suits) in [("read-write", false), ("read-only", true), ("primary", true)] {
        assert_eq!(agree(&case(wanted, "127.0.0.1", &p.to_string())).await.is_some(), suits, "{wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_programs_take_the_connection_of_the_session() {
    let server = cluster();
    server.admin("ALTER ROLE app SUPERUSER");
    let (dead, port) = (free_port(), server.port());
    let case = Case::new("tools").env("HOME", "/nonexistent").env("PGPASSWORD", "pa:ss\\word");
    let case = case.host("127.0.0.1,127.0.0.1").port(&format!("{dead},{port}")).user("app");
    let target = resolve(&case.dbname(r"dbname='a=b \'c\\'")).unwrap();
    let session = Session::connect(&target, &ONCE).await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let child = ChildConnection::new(&target, session.endpoint(), scratch.path()).unwrap();
    connection::oracle::pass_on(&child);
    for (program, arguments, words) in [
        ("pg_dump", vec!["--schema-only", "--create"], "CREATE DATABASE \"a=b 'c\\\""),
        ("pg_dumpall", vec!["--globals-only"], "CREATE ROLE \"we ird:\\\""),
    ] {
        let mut command = std::process::Command::new(format!("{}/{program}", connection::cluster::BIN));
        command.env_clear().envs(child.variables()).args(arguments);
        let text = run(command.arg("-w").arg("-d").arg(child.dbname_argument(&session.endpoint().dbname)));
        assert!(text.contains(words), "{program}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_independent_of_settings_and_ends_when_dropped() {
    let server = cluster();
    let case = Case::new("app").env("HOME", "/").env("PGPASSWORD", "pa:ss\\word").host("127.0.0.1");
    let target = resolve(&case.port(&server.port().to_string()).user("app").dbname("app")).unwrap();
    let mut session = Session::connect(&target, &ONCE).await.unwrap();
    assert_eq!(session.server_version_num() / 10000, 15);
    assert!(session.system_identifier().is_some());
    for (setting, value) in [
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_session_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("search_path", ""),
        ("row_security", "off"),
        ("default_transaction_read_only", "on"),
        ("application_name", "pgkeep"),
        ("client_encoding", "UTF8"),
    ] {
        let row = session.client().query_one("SELECT pg_catalog.current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{setting}");
    }
    let transaction = session.client_mut().transaction().await.unwrap();
    let refusal = transaction.batch_execute("CREATE TABLE public.t ()").await.unwrap_err();
    assert_eq!(refusal.code(), Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION));
    transaction.rollback().await.unwrap();

    let deadline = Instant::now() + Duration::from_secs(60);
    let ends = |pid: i32| {
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        while server.admin(&count) != "0" {
            assert!(Instant::now() < deadline, "the connection outlives its session");
        }
    };
    let pid: i32 = session.client().query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(server.admin(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")), "1");
    assert!(session.endpoint().to_string().starts_with("database \"app\" as \"app\" on \"127.0.0.1\", port "));
    drop(session);
    ends(pid);

    let session = Session::connect(&target, &ONCE).await.unwrap();
    let pid: i32 = session.client().query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await.unwrap().get(0);
    session.close().await;
    ends(pid);

    // A query that runs when its session is dropped ends, too.
    let session = Session::connect(&target, &ONCE).await.unwrap();
    let pid: i32 = session.client().query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await.unwrap().get(0);
    {
        let mut query = std::pin::pin!(session.client().batch_execute("SELECT pg_catalog.pg_sleep(1000)"));
        assert!(futures_util::poll!(&mut query).is_pending());
        let running = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
        while tokio::task::block_in_place(|| server.admin(&running)) != "1" {
            assert!(Instant::now() < deadline, "the query does not begin");
        }
    }
    drop(session);
    ends(pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_waited_for_and_a_wrong_password_is_not() {
    let server = cluster();
    server.stop();
    let patient = SessionOptions { access: Access::ReadWrite, retry_budget: Duration::from_secs(60) };
    let case = Case::new("patience").env("HOME", "/").host("127.0.0.1").port(&server.port().to_string()).dbname("app");
    let target = resolve(&case.clone().user("trusted")).unwrap();
    let refused = Session::connect(&target, &ONCE).await.expect_err("nobody listens");
    assert_eq!(refused.kind, Kind::Connect);
    let waiting = tokio::spawn(async move { Session::connect(&target, &patient).await });
    tokio::task::block_in_place(|| server.start());
    assert_eq!(waiting.await.unwrap().unwrap().endpoint().port, server.port());

    let patient = SessionOptions { access: Access::ReadOnly, retry_budget: Duration::from_secs(60) };
    let begun = Instant::now();
    let target = resolve(&case.user("app").env("PGPASSWORD", "hunter2")).unwrap();
    let error = Session::connect(&target, &patient).await.expect_err("a refusal");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(error.to_string().contains("password authentication failed"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

/// A server that is forever starting up; the number of logins it refused.
async fn starting_server() -> (u16, Arc<AtomicU32>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = Arc::new(AtomicU32::new(0));
    let counter = refused.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut startup = [0; 4];
            stream.read_exact(&mut startup).await.unwrap();
            let mut rest = vec![0; u32::from_be_bytes(startup) as usize - 4];
            stream.read_exact(&mut rest).await.unwrap();
            let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
            let mut message = vec![b'E'];
            message.extend((fields.len() as u32 + 4).to_be_bytes());
            message.extend(fields);
            stream.write_all(&message).await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_up_is_passed_over_or_waited_for() {
    let server = cluster();
    let (starting, refused) = starting_server().await;
    let case = |ports: &str| {
        let hosts = vec!["127.0.0.1"; ports.split(',').count()].join(",");
        Case::new(ports)
            .env("HOME", "/")
            .env("PGSSLMODE", "disable")
            .host(&hosts)
            .port(ports)
            .user("trusted")
            .dbname("app")
    };
    assert!(agree(&case(&starting.to_string())).await.is_none());
    assert!(agree(&case(&format!("{starting},{}", server.port()))).await.is_some());

    let before = refused.load(Ordering::Relaxed);
    let target = resolve(&case(&starting.to_string())).unwrap();
    let patient = SessionOptions { access: Access::ReadOnly, retry_budget: Duration::from_secs(1) };
    let error = Session::connect(&target, &patient).await.expect_err("never up");
    assert!(error.to_string().contains("starting up"), "{error}");
    assert!(refused.load(Ordering::Relaxed) - before > 1);

    // psql 15 knows no load balancing: with one server dead, any order finds the other.
    let dead = free_port();
    let balanced = case(&format!("{dead},{}", server.port())).env("PGLOADBALANCEHOSTS", "random");
    let mut first_tried_dead = 0;
    for _ in 0..40 {
        let target = resolve(&balanced).unwrap();
        assert_eq!(Session::connect(&target, &ONCE).await.unwrap().endpoint().port, server.port());
        let all_dead = resolve(&case(&format!("{dead},{starting}")).env("PGLOADBALANCEHOSTS", "random")).unwrap();
        let error = Session::connect(&all_dead, &ONCE).await.expect_err("nobody").to_string();
        first_tried_dead += i32::from(error.find("refused") < error.find("starting"));
    }
    assert!((1..40).contains(&first_tried_dead), "{first_tried_dead} of 40");
}

/// A server that lets everybody in and then says nothing more, as one does whose disk hangs.
async fn mute_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut startup = [0; 4];
        stream.read_exact(&mut startup).await.unwrap();
        stream.read_exact(&mut vec![0; u32::from_be_bytes(startup) as usize - 4]).await.unwrap();
        stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.unwrap();
        // Until the other side gives up.
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_after_the_login_is_given_up() {
    let port = mute_server().await.to_string();
    let case = Case::new("mute").env("HOME", "/").env("PGSSLMODE", "disable").env("PGCONNECT_TIMEOUT", "2");
    let target = resolve(&case.host("127.0.0.1").port(&port).user("u")).unwrap();
    let connect = tokio::time::timeout(Duration::from_secs(60), Session::connect(&target, &ONCE));
    let error = connect.await.expect("it is waited for without end").expect_err("a failure").to_string();
    assert!(error.contains("prepare a session") && error.contains("no answer within 2 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_every_place_and_its_next_step_fits() {
    let server = cluster();
    let (dead, port) = (free_port().to_string(), server.port().to_string());
    let case = |host: &str, port: &str, user: &str| {
        Case::new(user).env("HOME", "/nonexistent").host(host).port(port).user(user).dbname("app")
    };
    let tcp = |user: &str| case("127.0.0.1", &port, user);
    let socket = |user: &str| case(server.socket_dir(), &port, user);
    let two = case("127.0.0.1,/nonexistent", &dead, "trusted");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = case("127.0.0.1", &silent.local_addr().unwrap().port().to_string(), "trusted");
    let scratch = home(&[("c.crt", ""), ("k.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n")]);
    let file = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let verifying = |root: &str| tcp("trusted").env("PGSSLMODE", "verify-ca").env("PGSSLROOTCERT", root);
    let table: [(Case, &[&str], &str); 15] = [
        (silent.env("PGCONNECT_TIMEOUT", "2"), &["no answer within 2 s"], "psql -c 'select 1'"),
        (verifying("/nonexistent.crt"), &["/nonexistent.crt", "does not exist"], "sslrootcert"),
        (verifying(&file("c.crt")), &["c.crt", "usable root certificate"], "sslrootcert"),
        (
            tcp("trusted").env("PGSSLMODE", "require").env("PGSSLCERT", &file("c.crt")).env("PGSSLKEY", &file("k.key")),
            &["k.key", "encrypted"],
            "decrypt it",
        ),
        (two, &["\"127.0.0.1\"", "refused", "/nonexistent/.s.PGSQL", "No such file"], "unix_socket_directories"),
        (case("127.0.0.1", &dead, "trusted"), &["port", "refused"], "psql -c 'select 1'"),
        (case("nowhere.invalid", "1", "trusted"), &["nowhere.invalid", "look up"], "resolve"),
        (tcp("app"), &["asks for a password"], ".pgpass"),
        (tcp("app").env("PGPASSWORD", "bad"), &["password authentication failed"], "PGPASSWORD"),
        (tcp("postgres"), &["pg_hba.conf"], "pg_hba.conf"),
        (tcp("trusted").dbname("none"), &["\"none\" does not exist"], "psql -l"),
        (socket("certuser"), &["Peer authentication failed"], "peer"),
        (tcp("trusted").env("PGSSLMODE", "require"), &["does not support TLS"], "sslmode"),
        (socket("trusted").env("PGREQUIREPEER", "x"), &["requirepeer"], "requirepeer"),
        (tcp("trusted").env("PGTARGETSESSIONATTRS", "standby"), &["not a standby"], "target_session_attrs"),
    ];
    for (case, words, hint) in table {
        let target = resolve(&case).unwrap();
        let error = Session::connect(&target, &ONCE).await.expect_err("a failure");
        assert_eq!(error.kind, Kind::Connect);
        for word in words {
            assert!(error.to_string().contains(word), "no {word:?} in: {error}");
        }
        assert!(error.next_step().unwrap().contains(hint), "no {hint:?} in: {error:?}");
    }
}
