use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::error::Kind;

const PATH: &str = "/etc/db-backup.env";

const LOCAL: &str = "PG_HOST=127.0.0.1\nPG_DATABASE=community\nPG_USER=backup\nBACKUP_MODE=local\n";

const UPLOADING: &str = "PG_HOST=127.0.0.1\nPG_DATABASE=community\nPG_USER=backup\nOSS_BUCKET=your-oss-bucket\n\
                         OSS_ENDPOINT=oss-cn-hangzhou.aliyuncs.com\nOSS_ACCESS_KEY_ID=id\nOSS_ACCESS_KEY_SECRET=hunter2\n";

fn nothing() -> Environment {
    Environment::default()
}

fn parse(text: &str) -> Result<EnvFile> {
    EnvFile::parse(Path::new(PATH), text, &nothing())
}

fn error(text: &str) -> Error {
    parse(text).expect_err(text)
}

fn bucket(file: &EnvFile) -> &Bucket {
    match &file.remote {
        Some(Remote::Oss(bucket)) => bucket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_those_of_the_document() {
    let file = parse(UPLOADING).unwrap();
    let server = Server { host: "127.0.0.1".into(), port: 5432, database: "community".into(), user: "backup".into() };
    assert_eq!(file.server, server);
    assert_eq!(
        (file.mode, file.tool, file.retention_days, file.includes_globals),
        (Mode::Both, UploadTool::Ossutil, 7, true)
    );
    let directories = Directories {
        base: "/data/db-backups".into(),
        reports: "/data/db-backups/reports".into(),
        log: "/var/log/db-backup".into(),
    };
    assert_eq!(file.directories, directories);
    assert_eq!(file.extra_options, ExtraOptions::default());
    assert_eq!(bucket(&file).prefix, "postgres/backups");
    assert_eq!(bucket(&file).endpoint.region.as_deref(), Some("cn-hangzhou"));
    assert_eq!(file.remote.as_ref().unwrap().url_of("x.dump"), "oss://your-oss-bucket/postgres/backups/x.dump");
    let file = parse(&(LOCAL.replace("local", "oss") + "BACKUP_UPLOAD_TOOL=rclone\n")).unwrap();
    let remote = Remote::Rclone { remote: "oss".into(), path: "postgres/backups".into() };
    assert_eq!(file.remote.as_ref(), Some(&remote));
    assert_eq!(remote.url_of("x.dump"), "oss:postgres/backups/x.dump");
}

#[test]
fn every_variable_of_the_document_is_read() {
    let text = "export PG_HOST=db.example.com PG_PORT=6432\nPG_DATABASE='shop 2'\nPG_USER=dumper\nPGPASSWORD='hunter2'\n\
        BACKUP_MODE=both\nBACKUP_BASE_DIR=/srv/b/\nBACKUP_LOG_DIR=$BACKUP_BASE_DIR/log\nRETENTION_DAYS=30\n\
        INCLUDE_GLOBALS=false\nPG_DUMP_EXTRA_OPTS=\"--exclude-table-data=large_audit_table -Z 6\"\n\
        BACKUP_UPLOAD_TOOL=ossutil\nOSS_BUCKET=b-1\nOSS_PREFIX=/pg/x/\nOSS_ENDPOINT=https://oss-cn-beijing-internal.aliyuncs.com\n\
        OSS_ACCESS_KEY_ID=id\nOSS_ACCESS_KEY_SECRET=hunter3\nRCLONE_REMOTE=far\nRCLONE_PATH=/p/\n\
        BACKUP_ENV_FILE=/etc/db-backup.env\nBACKUP_REPORTS_DIR=/srv/reports\nBACKUP_ENABLED=true\nPGSSLMODE=require\n\
        RCLONE_CONFIG_FAR_TYPE=sftp\nRCLONE_CONFIG_FAR_PASS=hunter4\nANYTHING=1\n";
    let file = parse(text).unwrap();
    assert_eq!((file.server.host.as_str(), file.server.port), ("db.example.com", 6432));
    assert_eq!((file.server.database.as_str(), file.server.user.as_str()), ("shop 2", "dumper"));
    let directories = Directories { base: "/srv/b".into(), reports: "/srv/reports".into(), log: "/srv/b/log".into() };
    assert_eq!(file.directories, directories);
    assert_eq!((file.retention_days, file.includes_globals), (30, false));
    assert_eq!(file.extra_options.choosing, ["--exclude-table-data=large_audit_table"]);
    assert_eq!((file.extra_options.level, file.extra_options.is_filtered()), (Some(6), true));
    let bucket = bucket(&file);
    assert_eq!((bucket.name.as_str(), bucket.prefix.as_str()), ("b-1", "pg/x"));
    assert_eq!(bucket.endpoint.url, "https://s3.oss-cn-beijing-internal.aliyuncs.com");
    assert_eq!(bucket.access_key_secret.expose(), "hunter3");
    for (name, value) in [("PGPASSWORD", "hunter2"), ("PGSSLMODE", "require"), ("RCLONE_CONFIG_FAR_TYPE", "sftp")] {
        assert_eq!(file.environment.get(name), Some(value));
    }
    assert_eq!(file.secrets().iter().map(Secret::expose).collect::<Vec<_>>(), ["hunter3", "hunter2", "hunter4"]);
    assert!(!format!("{file:?}").contains("hunter"), "{file:?}");
    let rclone = parse(&text.replace("=ossutil", "=rclone")).unwrap();
    assert_eq!(rclone.remote, Some(Remote::Rclone { remote: "far".into(), path: "/p".into() }));
}

#[test]
fn the_environment_has_precedence_and_empty_counts_as_not_set() {
    let process = Environment::from_pairs([("PG_HOST", "other"), ("RETENTION_DAYS", ""), ("PGPASSWORD", "p")]);
    let text = LOCAL.to_owned() + "RETENTION_DAYS=9\nPGPASSWORD=q\nBACKUP_LOG_DIR=\n";
    let file = EnvFile::parse(Path::new(PATH), &text, &process).unwrap();
    assert_eq!((file.server.host.as_str(), file.retention_days), ("other", 9));
    assert_eq!(file.environment.get("PGPASSWORD"), Some("p"));
    assert_eq!(file.environment.get("RETENTION_DAYS"), Some("9"));
    assert_eq!(file.directories.log, Path::new("/var/log/db-backup"));
    let wrong = Environment::from_pairs([("BACKUP_MODE", "cloud")]);
    let error = EnvFile::parse(Path::new(PATH), LOCAL, &wrong).unwrap_err();
    assert_eq!(error.to_string(), "BACKUP_MODE of the environment is not local, oss or both");
}

/// A folder without a name is none in a repository, and the addresses in reports are those of what is stored.
#[test]
fn slashes_in_a_row_are_one() {
    let file = parse(&(UPLOADING.to_owned() + "OSS_PREFIX=//pg//x/")).unwrap();
    assert_eq!(file.remote.unwrap().url_of("a.dump"), "oss://your-oss-bucket/pg/x/a.dump");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_variable_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = EnvFile::read(&folder.path().join("db.env"), &Environment::default()).unwrap_err();
    assert!(error.next_step().unwrap().starts_with("BACKUP_ENV_FILE names it"), "{error:?}");
}

#[test]
fn wrong_values_name_variable_line_and_what_is_allowed_and_nothing_else() {
    for (line, expected) in [
        ("BACKUP_MODE=hunter2", "is not local, oss or both"),
        ("BACKUP_UPLOAD_TOOL=hunter2", "is not ossutil or rclone"),
        ("INCLUDE_GLOBALS=hunter2", "is not true or false"),
        ("RETENTION_DAYS=hunter2", "is not a whole number from 0 to 999999"),
        ("RETENTION_DAYS=-1", "is not a whole number from 0 to 999999"),
        ("RETENTION_DAYS=+1", "is not a whole number from 0 to 999999"),
        ("PG_PORT=0", "is not a whole number from 1 to 65535"),
        ("PG_PORT=99999999999", "is not a whole number from 1 to 65535"),
        ("BACKUP_BASE_DIR=hunter2", "is not an absolute path"),
        ("BACKUP_LOG_DIR=hunter2", "is not an absolute path"),
        ("BACKUP_REPORTS_DIR=hunter2", "is not an absolute path"),
        ("PG_DUMP_EXTRA_OPTS='-f hunter2'", "cannot be used: -f cannot be used"),
        ("OSS_BUCKET=oss://hunter2", "is not the name of a bucket"),
        ("OSS_ENDPOINT=https://a:hunter2@host", "is not the name of a host"),
        ("OSS_ENDPOINT=your-oss-bucket.oss-cn-hangzhou.aliyuncs.com", "begins with the bucket"),
        ("OSS_PREFIX=a/../hunter2", "is not a path of folders"),
        ("OSS_PREFIX='a?profile=hunter2'", "is not a path of folders"),
        ("PG_HOST=$'a\\nhunter2'", "is not free of control characters"),
    ] {
        let error = error(&(UPLOADING.to_owned() + line));
        let key = line.split('=').next().unwrap();
        assert_eq!(error.kind, Kind::Usage, "{line}");
        assert_eq!(error.to_string(), format!("{key} on line 8 of {PATH} {expected}"));
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let error = error(&(LOCAL.to_owned() + "BACKUP_MODE=oss\nBACKUP_UPLOAD_TOOL=rclone\nRCLONE_REMOTE=oss:"));
    assert_eq!(
        error.to_string(),
        format!("RCLONE_REMOTE on line 7 of {PATH} is not the name of a remote, without a colon")
    );
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let told = error("PG_USER=x\n");
    assert_eq!(told.to_string(), format!("{PATH} does not set PG_HOST, PG_DATABASE"));
    let told = error("PG_HOST=h\nPG_USER=x\nPG_DATABASE=d\nOSS_BUCKET=b-1\n");
    let expected = "does not set OSS_ENDPOINT, OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET, as BACKUP_MODE=both needs";
    assert_eq!((told.kind, told.to_string()), (Kind::Usage, format!("{PATH} {expected}")));
    assert_eq!(told.next_step(), Some("add a line such as OSS_ENDPOINT=…, or set BACKUP_MODE=local"));
    assert!(parse(LOCAL).unwrap().remote.is_none());
}

#[test]
fn a_mistyped_variable_names_the_one_that_was_meant() {
    let told = error(&(LOCAL.to_owned() + "BACKUP_MOD=both\n"));
    assert_eq!(told.to_string(), format!("BACKUP_MOD on line 5 of {PATH} is not a setting"));
    assert_eq!(told.next_step(), Some("did you mean BACKUP_MODE?"));
    assert_eq!(error("OSS_BUKET=hunter2").next_step(), Some("did you mean OSS_BUCKET?"));
    assert_eq!(error("PG_USERNAME=x").to_string(), format!("PG_USERNAME on line 1 of {PATH} is not a setting"));
    assert_eq!(error("RCLONE_TRANSFERS=4").kind, Kind::Usage);
    assert!(parse(&(LOCAL.to_owned() + "RETENTION_DAY=1\nPGSSLMODE=x\nAWS_REGION=y\n")).is_ok());
}

#[test]
fn a_line_that_is_no_assignment_names_file_and_line() {
    let told = error("PG_HOST=h\nPGPASSWORD=$(cat hunter2)\n");
    assert_eq!(told.to_string(), format!("line 2 of {PATH} holds $(…), $((…)) or $[…]"));
    assert_eq!(told.next_step(), Some("write the value itself: nothing in this file is run"));
}

#[test]
fn the_file_is_read_from_disk_if_it_is_private() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), LOCAL).unwrap();
    assert_eq!(EnvFile::read(file.path(), &nothing()).unwrap().mode, Mode::Local);
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(EnvFile::read(file.path(), &nothing()).unwrap_err().kind, Kind::Refused);
    assert_eq!(EnvFile::read(Path::new("/nonexistent/x.env"), &nothing()).unwrap_err().kind, Kind::Usage);
}

#[test]
fn the_example_is_a_complete_configuration() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/legacy.env")).unwrap();
    let file = EnvFile::parse(Path::new("legacy.env"), &text, &nothing()).unwrap();
    assert_eq!((file.mode, file.retention_days, file.includes_globals), (Mode::Both, 7, true));
    // Those that are commented out are described, too.
    for setting in &SETTINGS {
        let told =
            ["OSS_SESSION_TOKEN", "RCLONE_CONFIG", "PG_COLOR", "PG_COLORS"].contains(setting) || text.contains(setting);
        assert!(told, "{setting} is not in examples/legacy.env");
    }
}
