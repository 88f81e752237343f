//! Authorities and certificates, made with the `openssl` command as administrators make them.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::cluster::run;

pub struct Certificates(TempDir);

impl Certificates {
    pub fn new() -> Self {
        let these = Self(tempfile::tempdir().unwrap());
        these.authority("ca", "/CN=authority");
        these.authority("other", "/CN=another authority");
        // What the first recipe of PostgreSQL's manual makes: a CA that is its own server.
        these.authority("self", "/CN=localhost");
        these.signed("good", "/CN=nobody", "subjectAltName=DNS:localhost,IP:127.0.0.1");
        these.signed("cn", "/CN=localhost", "basicConstraints=CA:FALSE");
        these.signed("wrong", "/CN=localhost", "subjectAltName=DNS:other.example");
        these.signed("wild", "/CN=*.0.0.1", "subjectAltName=DNS:*.localhost,DNS:*");
        these.signed("client", "/CN=certuser", "basicConstraints=CA:FALSE");
        these.signed("other-client", "/CN=somebody", "basicConstraints=CA:FALSE");
        these.signed_with("v1", "/CN=localhost", &["-days", "100"]);
        these.signed_with("client-v1", "/CN=certuser", &["-days", "100"]);
        these.signed_with("expired", "/CN=localhost", &["-days", "-1"]);
        these.self_signed_leaf("leaf");
        these.revocation_lists();
        let version_1 = run(these.openssl().args(["x509", "-noout", "-text", "-in", "v1.crt"]));
        assert!(version_1.contains("Version: 1 "), "{version_1}");
        these
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.0.path());
        command
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(Path::new(&self.path(name)), text).unwrap();
    }

    fn authority(&self, name: &str, subject: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        run(self
            .openssl()
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "100", "-subj", subject])
            .args(["-keyout", &key, "-out", &certificate]));
    }

    fn self_signed_leaf(&self, name: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        run(self
            .openssl()
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "100", "-subj", "/CN=localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate]));
    }

    fn signed(&self, name: &str, subject: &str, extension: &str) {
        let file = format!("{name}.ext");
        self.write(&file, extension);
        self.signed_with(name, subject, &["-days", "100", "-extfile", &file]);
    }

    fn signed_with(&self, name: &str, subject: &str, options: &[&str]) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        run(self
            .openssl()
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", subject, "-keyout", &key, "-out", &request]));
        run(self
            .openssl()
            .args(["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key"])
            .args(["-CAcreateserial", "-out", &certificate])
            .args(options));
    }

    fn revocation_lists(&self) {
        self.write("index.txt", "");
        self.write("crlnumber", "01\n");
        self.write(
            "ca.conf",
            "[ca]\ndefault_ca=it\n[it]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\n\
             default_crl_days=10\ncrl_extensions=crl\n[crl]\nauthorityKeyIdentifier=keyid\n",
        );
        let ca = ["ca", "-batch", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key"];
        run(self.openssl().args(ca).args(["-gencrl", "-out", "empty.crl"]));
        run(self.openssl().args(ca).args(["-revoke", "good.crt"]));
        run(self.openssl().args(ca).args(["-gencrl", "-out", "good.crl"]));
    }
}
