use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::secret::Secret;
use crate::error::Kind;

fn parse(text: &str) -> Result<ConfigFile> {
    ConfigFile::parse(Path::new("/etc/pgkeep/pgkeep.toml"), text)
}

#[test]
fn repositories_are_read_in_the_order_of_the_file() {
    let file = parse(
        "# two\n[repository.site]\naddress = \"s3://b/x\"\nid = \"0123\"\ncredentials_file = \"/k\"\n\
         [repository.away]\naddress = \"/mnt/b\"\ncheck = \"decode\"\n\
         [repository.cloud]\naddress = \"oss://b\"\ncheck = \"read-back\"\ncredentials_command = [\"keys\", \"b c\"]\n",
    )
    .unwrap();
    let names: Vec<&str> = file.repositories.iter().map(|repository| repository.name.as_str()).collect();
    assert_eq!(names, ["site", "away", "cloud"]);
    let [site, away, cloud] = &file.repositories[..] else { panic!("{file:?}") };
    assert_eq!((site.address.as_str(), site.id.as_deref(), site.check), ("s3://b/x", Some("0123"), None));
    assert_eq!(site.credentials, Credentials::File("/k".into()));
    assert_eq!((away.check, &away.credentials), (Some(CheckLevel::Decode), &Credentials::Chain));
    assert_eq!(cloud.check, Some(CheckLevel::ReadBack));
    assert_eq!(cloud.credentials, Credentials::Command(vec!["keys".into(), "b c".into()]));
    assert_eq!(file.repository("away"), Some(away));
    assert_eq!(file.repository("none"), None);
    assert_eq!(parse("").unwrap().repositories, []);
}

#[test]
fn what_is_mistyped_names_line_and_neighbour() {
    for (text, message, hint) in [
        ("[repositry.a]", "\"repositry\" on line 1 of F is not a table of this file", "did you mean repository?"),
        ("x = 1", "\"x\" on line 1 of F is not a table of this file", "known are repository, instance"),
        (
            "[repository.a]\naddress = \"/b\"\nadress = \"/c\"",
            "\"adress\" on line 3 of F is not a key of [repository.a]",
            "did you mean address?",
        ),
        (
            "[repository.a]\nrecipient = 1",
            "\"recipient\" on line 2 of F is not a key of [repository.a]",
            "did you mean recipients? It is not supported by this version",
        ),
        (
            "\n[job.nightly]\nsteps = []",
            "job on line 2 of F is not supported by this version",
            "leave it out; known are repository, instance",
        ),
        (
            "[repository.a]\nrequired = true",
            "required on line 2 of F is not supported by this version",
            "leave it out; known are address, id, credentials_file, credentials_command, check",
        ),
        ("repository = 1", "repository on line 1 of F is not a table", "write [repository.NAME] above address = \"…\""),
        ("[repository.a]", "[repository.a] on line 1 of F has no address", "add a line such as address = \"/backups\""),
        ("[repository.a]\naddress = 1", "address on line 2 of F is not text", "write address = \"…\""),
        (
            "[repository.a]\naddress = \"./b\"",
            "address on line 2 of F is not an absolute path",
            "begin it with a slash",
        ),
        (
            "[repository.\"a/b\"]\naddress = \"/b\"",
            "\"a/b\" on line 1 of F is not the name of a repository",
            "use letters, digits, - and _, and a letter or digit first",
        ),
        (
            "[repository.a]\naddress = \"/b\"\ncredentials_command = \"sh -c x\"",
            "credentials_command on line 3 of F is not a list of words",
            "write credentials_command = [\"/usr/local/bin/keys\", \"--of\", \"backups\"]: no shell reads it",
        ),
        (
            "[repository.a]\naddress = \"/b\"\ncredentials_command = [\"x\"]\ncredentials_file = \"/y\"",
            "[repository.a] on line 1 of F has both credentials_file and credentials_command",
            "leave one of them out",
        ),
    ] {
        let error = parse(text).expect_err(text);
        let told = error.to_string().replace("/etc/pgkeep/pgkeep.toml", "F");
        assert_eq!((error.kind, told.as_str(), error.next_step()), (Kind::Usage, message, Some(hint)), "{text}");
    }
    for (text, message) in [
        (
            "[repository.a]\naddress = \"/b\"\ncheck = \"deep\"",
            "check on line 3 of F is not \"decode\" or \"read-back\"",
        ),
        ("[repository.a]\naddress = \"\"", "address on line 2 of F is empty or has control characters in it"),
        (
            "[repository.a]\naddress = \"/b\"\ncredentials_file = \"k\"",
            "credentials_file on line 3 of F is not an absolute path",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string().replace("/etc/pgkeep/pgkeep.toml", "F"), message);
    }
}

#[test]
fn what_is_no_toml_names_the_line_and_repeats_nothing() {
    for text in
        ["[repository.a]\naddress = hunter2", "[repository.a]\naddress \"hunter2\"", "[repository.a]\n\"hunter2"]
    {
        let error = parse(text).expect_err(text);
        assert!(error.to_string().starts_with("read line 2 of /etc/pgkeep/pgkeep.toml: "), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert_eq!(parse("[repository.a]\naddress = \"/b\"\naddress = \"/c\"").unwrap_err().kind, Kind::Usage);
}

#[test]
fn a_file_that_others_may_change_is_refused_and_one_that_they_may_read_is_not() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[repository.a]\naddress = \"/b\"\n").unwrap();
    let with = |mode| {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        ConfigFile::read(file.path()).map_err(|error| error.kind)
    };
    assert!(with(0o644).is_ok());
    assert_eq!(with(0o664), Err(Kind::Refused));
    assert_eq!(with(0o666), Err(Kind::Refused));
}

#[test]
fn an_instance_is_read_whole() {
    let file = parse(
        "[repository.site]\naddress = \"/b\"\n[instance.plain]\n\
         [instance.cost-server]\nconninfo = \"host=cost port=5433\"\npassword_file = \"/run/secrets/cost\"\n\
         databases = [\"cost_server\", \"a=b\"]\nrepositories = [\"site\"]\nmethods = [\"dump\"]\n\
         tunnel = [\"kubectl\", \"port-forward\", \"svc/cost\", \"{port}:5432\"]\nbin_dir = \"/usr/lib/x\"\n\
         bin_prefix = [\"kubectl\", \"exec\", \"-i\", \"pod\", \"--\"]\nmax_age = \"26h\"\n\
         [instance.cost-server.retention]\nkeep_daily = 7\nkeep_last = 0\nkeep_within = \"14d\"\n\
         [instance.all]\ndatabases = \"all\"\nexclude = [\"scratch\"]\npassword_command = [\"pass\", \"show\"]\n",
    )
    .unwrap();
    let [plain, cost, all] = &file.instances[..] else { panic!("{file:?}") };
    assert_eq!((plain.name.as_str(), &plain.databases), ("plain", &Databases::Unnamed));
    assert_eq!(plain.methods, [Method::Dump, Method::Base]);
    assert!(plain.retention.is_empty() && plain.repositories.is_none());
    assert_eq!(cost.conninfo.as_ref().map(Secret::expose), Some("host=cost port=5433"));
    assert_eq!(cost.password, Password::File("/run/secrets/cost".into()));
    assert_eq!(cost.databases, Databases::These(vec!["cost_server".into(), "a=b".into()]));
    assert_eq!(cost.repositories, Some(vec!["site".to_owned()]));
    assert_eq!((cost.methods.as_slice(), cost.max_age), (&[Method::Dump][..], Some(hours(26))));
    assert_eq!(cost.tunnel.as_ref().unwrap().len(), 4);
    assert_eq!(cost.bin_prefix.as_ref().unwrap()[4], "--");
    let kept = Retention { daily: Some(7), last: Some(0), within: Some(hours(14 * 24)), ..Retention::default() };
    assert_eq!(cost.retention, kept);
    assert_eq!((&all.databases, all.exclude.as_slice()), (&Databases::All, &["scratch".to_owned()][..]));
    assert_eq!(all.password, Password::Command(vec!["pass".into(), "show".into()]));
    // A connection string may hold a password.
    assert!(!format!("{file:?}").contains("port=5433"));
}

fn hours(count: u64) -> std::time::Duration {
    std::time::Duration::from_secs(count * 3600)
}

#[test]
fn what_is_wrong_with_an_instance_is_told_with_line_and_next_step() {
    for (lines, message, hint) in [
        ("databases = []", "databases on line 2 of F is not a list of names", "write databases = [\"shop\"]"),
        (
            "databases = \"shop\"",
            "databases on line 2 of F is not \"all\" or a list of names",
            "write databases = \"all\" or databases = [\"shop\"]",
        ),
        ("databases = [\"a\", \"a\"]", "databases on line 2 of F names \"a\" twice", "name it once"),
        (
            "databases = [\"a\"]\nexclude = [\"b\"]",
            "[instance.a] on line 1 of F has both a list of databases and exclude",
            "leave exclude out: it takes databases away from databases = \"all\" and from --all",
        ),
        ("coninfo = \"x\"", "\"coninfo\" on line 2 of F is not a key of [instance.a]", "did you mean conninfo?"),
        (
            "methods = [\"dump\", \"copy\"]",
            "methods on line 2 of F names what is no method",
            "write methods = [\"dump\", \"base\"], or one of them",
        ),
        (
            "tunnel = [\"kubectl\", \"port-forward\", \"5432:5432\"]",
            "tunnel on line 2 of F does not say where {port} goes",
            "write tunnel = [\"kubectl\", \"port-forward\", \"service/site\", \"{port}:5432\"]: \
             pgkeep puts a free local port in the place of {port}",
        ),
        (
            "max_age = 26",
            "max_age on line 2 of F is not a length of time",
            "write max_age = \"7d\", with s, m, h, d or w behind the number",
        ),
        (
            "repositories = [\"away\"]",
            "repositories on line 2 of F: \"away\" is not the name of a configured repository",
            "add [repository.away] with its address",
        ),
        (
            "password_file = \"/p\"\npassword_command = [\"p\"]",
            "[instance.a] on line 1 of F has both password_file and password_command",
            "leave one of them out",
        ),
        (
            "[instance.a.retention]\nkeep_dayly = 7",
            "\"keep_dayly\" on line 3 of F is not a key of [instance.a.retention]",
            "did you mean keep_daily?",
        ),
        (
            "[instance.a.retention]\nkeep_daily = -7",
            "keep_daily on line 3 of F is not a whole number",
            "write keep_daily = 7",
        ),
        (
            "[instance.a.retention]\nkeep_daily = 0",
            "[instance.a] on line 1 of F is wrong: its retention keeps nothing",
            "add a line such as keep_daily = 7, or leave the table out to keep every backup",
        ),
    ] {
        let error = parse(&format!("[instance.a]\n{lines}")).expect_err(lines);
        let told = error.to_string().replace("/etc/pgkeep/pgkeep.toml", "F");
        assert_eq!((error.kind, told.as_str(), error.next_step()), (Kind::Usage, message, Some(hint)), "{lines}");
    }
    for later in ["rto = \"1h\"", "rpo = \"1h\"", "full_every = \"7d\""] {
        let error = parse(&format!("[instance.a]\n{later}")).unwrap_err();
        assert!(error.to_string().ends_with(" is not supported by this version"), "{error}");
    }
}

#[test]
fn an_instance_has_the_name_of_a_directory() {
    let longest = "a".repeat(63);
    for right in ["a", "0", "cost-server", "a_b", longest.as_str()] {
        assert_eq!(parse(&format!("[instance.{right}]")).unwrap().instances[0].name, right);
    }
    let too_long = "a".repeat(64);
    for wrong in ["A", "-a", "_a", "\"a/b\"", "\"\"", "\"ä\"", "\"..\"", too_long.as_str()] {
        let error = parse(&format!("[instance.{wrong}]")).unwrap_err();
        assert!(error.to_string().contains("is not the name of an instance"), "{error}");
    }
}
