use std::os::unix::fs::PermissionsExt;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::from_pairs(pairs.iter().copied()).with_account("root")
}

fn dbname(text: &str) -> ConnectionFlags {
    ConnectionFlags { dbname: Some(text.into()), ..Default::default() }
}

fn resolve(text: &str, pairs: &[(&str, &str)]) -> ConnectTarget {
    ConnectTarget::resolve(&dbname(text), &environment(pairs)).unwrap()
}

fn places(target: &ConnectTarget) -> Vec<(&str, Option<&str>, u16)> {
    target.hosts.iter().map(|h| (h.host.as_str(), h.address.as_deref(), h.port)).collect()
}

#[test]
fn defaults() {
    let target = ConnectTarget::resolve(&ConnectionFlags::default(), &environment(&[])).unwrap();
    assert_eq!((target.user.as_str(), target.dbname.as_str()), ("root", "root"));
    assert_eq!(places(&target), [(default_socket_directory(), None, 5432)]);
    assert!(target.hosts[0].is_socket());
    assert_eq!(target.tls.mode, SslMode::Prefer);
}

#[test]
fn a_connection_string_beats_flags_and_flags_beat_the_environment() {
    let flags = ConnectionFlags {
        host: Some("flag".into()),
        port: Some("1".into()),
        user: Some(String::new()),
        dbname: Some("host=string".into()),
        ..Default::default()
    };
    let target =
        ConnectTarget::resolve(&flags, &environment(&[("PGHOST", "e"), ("PGUSER", "u"), ("PGDATABASE", "a=b")]));
    let target = target.unwrap();
    assert_eq!(places(&target), [("string", None, 1)]);
    assert_eq!((target.user.as_str(), target.dbname.as_str()), ("u", "a=b"));
}

#[test]
fn an_empty_value_hides_the_environment() {
    assert_eq!(places(&resolve("host=''", &[("PGHOST", "e")])), [(default_socket_directory(), None, 5432)]);
}

#[test]
fn a_literal_name_is_only_a_name() {
    let flags =
        ConnectionFlags { dbname: Some("host=h".into()), database: Some("host=evil".into()), ..Default::default() };
    let target = ConnectTarget::resolve(&flags, &environment(&[])).unwrap();
    assert_eq!((target.hosts[0].host.as_str(), target.dbname.as_str()), ("h", "host=evil"));
}

#[test]
fn hosts_addresses_and_ports_are_paired() {
    let target = resolve("postgresql://a:1,[::1],%2Ftmp:3/x", &[]);
    assert_eq!(places(&target), [("a", None, 1), ("::1", None, 5432), ("/tmp", None, 3)]);
    let target = resolve("host=a,b hostaddr=127.0.0.1, port=7", &[]);
    assert_eq!(places(&target), [("a", Some("127.0.0.1"), 7), ("b", None, 7)]);
    assert!(resolve("host=@abstract", &[]).hosts[0].is_socket());
    for bad in
        ["host=a,b hostaddr=::1", "host=a,b port=1,2,3", "port=0", "port=65536", "port=5x", "hostaddr=name", "port=-1"]
    {
        let error = ConnectTarget::resolve(&dbname(bad), &environment(&[])).unwrap_err();
        assert_eq!(error.kind, crate::error::Kind::Usage, "{bad}");
        assert!(error.next_step().is_some(), "{bad}");
    }
}

#[test]
fn what_we_cannot_do_is_refused() {
    for bad in [
        "gssencmode=require",
        "sslpassword=x",
        "require_auth=scram-sha-256",
        "sslcertmode=require",
        "sslcrldir=/x",
        "replication=true",
        "oauth_issuer=x",
        "scram_client_key=x",
        "sslkeylogfile=x",
        "min_protocol_version=3.2",
        "ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1",
        "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "sslrootcert=system sslmode=require",
        "sslnegotiation=direct",
        "sslmode=''",
        "sslmode=full",
        "target_session_attrs=x",
        "channel_binding=x",
        "load_balance_hosts=x",
        "keepalives=x",
        "connect_timeout=1s",
    ] {
        let error = ConnectTarget::resolve(&dbname(bad), &environment(&[])).unwrap_err();
        assert!(error.next_step().is_some(), "{bad}");
    }
    assert_eq!(resolve("sslrootcert=system", &[]).tls.mode, SslMode::VerifyFull);
    assert_eq!(resolve("dbname=x", &[("PGREQUIRESSL", "1")]).tls.mode, SslMode::Require);
}

#[test]
fn numbers() {
    let target = resolve("connect_timeout=1 keepalives_idle=10 keepalives_count=0 tcp_user_timeout=1500", &[]);
    assert_eq!(target.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(target.keepalive.idle, Some(Duration::from_secs(10)));
    assert_eq!(target.keepalive.count, None);
    assert_eq!(target.keepalive.user_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(resolve("connect_timeout=-1", &[]).connect_timeout, None);
    assert_eq!(resolve("connect_timeout=0", &[]).connect_timeout, None);
    assert_eq!(resolve("", &[]).connect_timeout, Some(Duration::from_secs(60)));
}

#[test]
fn every_host_has_its_own_password() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "a:1:*:*:first\nb:*:*:*:two\nlocalhost:*:*:*:socket\n\\:\\:1:*:*:*:six\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let home = [("HOME", home.path().to_str().unwrap())];
    let passwords = |target: &ConnectTarget| -> Vec<Option<String>> {
        target.hosts.iter().map(|h| h.password.as_ref().map(|p| p.expose().to_owned())).collect()
    };
    let target = resolve("postgresql://a:1,b:2,c:3,:4,[::1]:5/x", &home);
    let expected = [Some("first"), Some("two"), None, Some("socket"), Some("six")];
    assert_eq!(passwords(&target), expected.map(|p| p.map(str::to_owned)));
    assert_eq!(passwords(&resolve("hostaddr=::1", &home)), [Some("six".to_owned())]);
    assert_eq!(passwords(&resolve("host=a port=1 password=p", &home)), [Some("p".to_owned())]);
    assert!(!format!("{target:?}").contains("first"));
}

#[test]
fn what_is_passed_over_is_said() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "*:*:*:*:p\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let home = [("HOME", home.path().to_str().unwrap())];
    let target = resolve("sslmode=require sslrootcert=/nonexistent/ca sslcrl=/nonexistent/crl", &home);
    assert!(target.hosts[0].password.is_none());
    for word in ["chmod 0600", "/nonexistent/ca", "/nonexistent/crl"] {
        assert_eq!(target.warnings.iter().filter(|warning| warning.contains(word)).count(), 1, "{word}");
    }
    assert_eq!(resolve("dbname=x", &[("HOME", "/nonexistent")]).warnings, Vec::<String>::new());
}

#[test]
fn a_variable_that_is_not_text_is_an_error_unless_it_is_hidden() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let variable = (OsString::from("PGHOST"), OsString::from_vec(vec![b'/', 0xff]));
    let environment = Environment::from_pairs([variable]).with_account("root");
    assert!(ConnectTarget::resolve(&dbname("app"), &environment).is_err());
    assert!(ConnectTarget::resolve(&dbname("host=a"), &environment).is_ok());
}

#[test]
fn a_service_file_may_be_named_beside_its_service() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services");
    std::fs::write(&file, "[a]\nhost=h\nsslmode=disable\n").unwrap();
    let target = resolve(&format!("service=a servicefile={}", file.display()), &[("PGSERVICEFILE", "/nonexistent")]);
    assert_eq!((target.hosts[0].host.as_str(), target.tls.mode), ("h", SslMode::Disable));
    let error =
        ConnectTarget::resolve(&dbname("service=b"), &environment(&[("PGSERVICEFILE", file.to_str().unwrap())]));
    assert!(error.unwrap_err().next_step().unwrap().contains("[b]"));
}

#[test]
fn a_password_that_is_not_encoded_is_not_repeated_as_a_port() {
    let error = ConnectTarget::resolve(&dbname("postgresql://u:hunter2/x@h/d"), &environment(&[])).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    assert!(error.next_step().unwrap().contains("%2F"), "{error:?}");
}

fn of_instance(conninfo: &str) -> ConnectionFlags {
    let conninfo = (!conninfo.is_empty()).then(|| Secret::new(conninfo));
    ConnectionFlags { instance: Some(InstanceServer { conninfo, ..Default::default() }), ..Default::default() }
}

const STRAY: [(&str, &str); 7] = [
    ("PGHOST", "stray"),
    ("PGHOSTADDR", "192.0.2.1"),
    ("PGPORT", "9"),
    ("PGSERVICE", "stray"),
    ("PGUSER", "u"),
    ("PGDATABASE", "d"),
    ("PGPASSWORD", "p"),
];

#[test]
fn the_environment_completes_an_instance_and_never_moves_it() {
    let resolve = |flags: &ConnectionFlags| ConnectTarget::resolve(flags, &environment(&STRAY)).unwrap();
    let target = resolve(&of_instance("host=own"));
    assert_eq!(places(&target), [("own", None, 5432)]);
    assert_eq!((target.user.as_str(), target.dbname.as_str()), ("u", "d"));
    assert_eq!(target.hosts[0].password.as_ref().map(Secret::expose), Some("p"));
    // One that names no host is on this host, wherever the environment is.
    assert_eq!(places(&resolve(&of_instance("user=backup"))), [(default_socket_directory(), None, 5432)]);
    // What was typed is stronger, and takes the whole place.
    let typed =
        ConnectionFlags { host: Some("typed".into()), ..of_instance("host=own hostaddr=127.0.0.2 port=7 user=v") };
    let target = resolve(&typed);
    assert_eq!((places(&target), target.user.as_str()), (vec![("typed", None, 5432)], "v"));
    let port = ConnectionFlags { port: Some("8".into()), ..of_instance("host=own port=7") };
    assert_eq!(places(&resolve(&port)), [("own", None, 8)]);
    let uri =
        ConnectionFlags { dbname: Some("postgresql://other/x".into()), ..of_instance("host=own port=7 dbname=y") };
    assert_eq!((places(&resolve(&uri)), resolve(&uri).dbname.as_str()), (vec![("other", None, 5432)], "x"));
    // Without a connection string the environment says where the server is.
    let plain = ConnectTarget::resolve(&of_instance(""), &environment(&[("PGHOST", "e")])).unwrap();
    assert_eq!(places(&plain), [("e", None, 5432)]);
}

#[test]
fn a_tunnel_is_dialled_and_the_server_keeps_its_name() {
    let through = |conninfo: &str| {
        let mut flags = of_instance(conninfo);
        flags.instance.as_mut().unwrap().tunnel_port = Some(41309);
        flags
    };
    let resolve = |flags: &ConnectionFlags| ConnectTarget::resolve(flags, &environment(&STRAY));
    let target = resolve(&through("host=db.example.com port=5433 hostaddr=192.0.2.7 sslmode=verify-full")).unwrap();
    assert_eq!(places(&target), [("db.example.com", Some("192.0.2.7"), 5433)]);
    assert_eq!(target.hosts[0].dialled(), ("127.0.0.1", 41309));
    assert_eq!(places(&resolve(&through("user=backup")).unwrap()), [("localhost", None, 5432)]);
    for (flags, told) in [
        (through("host=/run"), "a tunnel leads to no socket of this host"),
        (through("host=a,b"), "a tunnel leads to one server, and conninfo names several"),
        (
            ConnectionFlags { host: Some("x".into()), ..through("host=a") },
            "the server of this instance is reached through its tunnel",
        ),
        (
            ConnectionFlags { port: Some("1".into()), ..through("host=a") },
            "the server of this instance is reached through its tunnel",
        ),
    ] {
        assert_eq!(resolve(&flags).unwrap_err().to_string(), told);
    }
}

#[test]
fn the_password_of_an_instance_is_fetched_unless_one_is_written_for_it() {
    let source = || Some(PasswordSource::File("/p".into()));
    let with = |conninfo: &str| {
        let mut flags = of_instance(conninfo);
        flags.instance.as_mut().unwrap().password = source();
        flags
    };
    let target = ConnectTarget::resolve(&with("host=own"), &environment(&STRAY)).unwrap();
    assert!(target.password.is_some() && target.hosts[0].password.is_none(), "not that of the environment");
    let typed = ConnectionFlags { dbname: Some("postgresql://u:typed@h/x".into()), ..with("host=own") };
    let target = ConnectTarget::resolve(&typed, &environment(&STRAY)).unwrap();
    assert!(target.password.is_none());
    assert_eq!(target.hosts[0].password.as_ref().map(Secret::expose), Some("typed"));
    let check = |conninfo: &str| of_instance(conninfo).instance.unwrap().check();
    assert_eq!(check("host=own password=x").unwrap(), HoldsPassword::Yes);
    assert_eq!(check("postgresql://u@h/d").unwrap(), HoldsPassword::No);
    assert_eq!(check("").unwrap(), HoldsPassword::No);
    for wrong in ["db.example.com", "hots=x", "host"] {
        assert_eq!(check(wrong).unwrap_err().kind, crate::error::Kind::Usage, "{wrong}");
    }
}
