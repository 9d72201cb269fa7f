//! Roots made, read, shared by two starters, and refused.

use std::{fs, os::unix::fs::PermissionsExt, thread};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use super::*;
use crate::CertificateAuthority;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What `ca.crt` and `ca.key` hold.
struct Files {
    folder: TempDir,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(certificate: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self {
            certificate: folder.path().join("ca.crt"),
            key: folder.path().join("ca.key"),
            folder,
        };
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
        chmod(&files.key, 0o600);
        files
    }

    fn load(&self) -> Result<CertificateAuthority, RootError> {
        CertificateAuthority::from_files(&self.certificate, &self.key, trust_domain())
    }

    /// Loading fails, and the message holds every one of `words`.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let Err(error) = self.load() else {
            panic!("accepted, {words:?} expected");
        };
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
        assert!(
            message.contains(self.folder.path().to_str().unwrap()),
            "{message:?} names no file"
        );
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Files {
    let key = KeyPair::generate().unwrap();
    let mut params = authority_params();
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    Files::new(&certificate.pem(), &key.serialize_pem())
}

#[test]
fn a_first_start_makes_a_private_root_and_a_second_one_finds_it() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("state/ca");
    let first = CertificateAuthority::open_or_create(&folder, trust_domain()).unwrap();
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("ca.key")), 0o600);
    assert_eq!(mode(&folder.join("ca.crt")), 0o600);
    let names = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name();
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(names).collect();
    files.sort();
    assert_eq!(files, ["ca.crt", "ca.key", "lock"]);

    let second = CertificateAuthority::open_or_create(&folder, trust_domain()).unwrap();
    assert_eq!(first.trust_bundle(), second.trust_bundle());

    let bundle = first.trust_bundle();
    let root = parse(&bundle.roots[0]).unwrap();
    assert!(root.is_ca() && is_self_signed(&root));
    assert!(root.name_constraints().unwrap().is_none());
    let life = root.validity().not_after.timestamp() - root.validity().not_before.timestamp();
    assert_eq!(life, 365 * 24 * 3600 + 300);
    assert_eq!(root.validity().not_after.timestamp(), {
        let end = first
            .root_not_after()
            .duration_since(SystemTime::UNIX_EPOCH);
        i64::try_from(end.unwrap().as_secs()).unwrap()
    });
}

#[test]
fn two_roots_are_never_the_same() {
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::open_or_create(folder.path(), trust_domain()).unwrap();
        ca.trust_bundle().roots[0].clone()
    };
    let (one, two) = (make(), make());
    let (one, two) = (parse(&one).unwrap(), parse(&two).unwrap());
    assert_ne!(one.public_key().raw, two.public_key().raw);
    assert_ne!(one.subject().as_raw(), two.subject().as_raw());
    assert_ne!(one.raw_serial(), two.raw_serial());
}

#[test]
fn control_planes_started_together_end_with_one_root() {
    for _ in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let ca = CertificateAuthority::open_or_create(folder.path(), trust_domain()).unwrap();
            ca.trust_bundle()
        };
        let bundles: Vec<_> = thread::scope(|scope| {
            let started: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap();
            started.into_iter().map(join).collect()
        });
        for bundle in &bundles {
            assert_eq!(bundle, &bundles[0]);
        }
    }
}

#[test]
fn a_crash_between_key_and_certificate_is_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let open = || CertificateAuthority::open_or_create(folder.path(), trust_domain());
    open().unwrap();
    fs::remove_file(folder.path().join("ca.crt")).unwrap();
    fs::write(folder.path().join("ca.crt.partial"), "half a certi").unwrap();
    let key = fs::read(folder.path().join("ca.key")).unwrap();
    open().unwrap();
    assert_eq!(fs::read(folder.path().join("ca.key")).unwrap(), key);
    assert!(!folder.path().join("ca.crt.partial").exists());
}

#[test]
fn a_state_folder_that_is_not_ours_alone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |word: &str| {
        let opened = CertificateAuthority::open_or_create(folder.path(), trust_domain());
        let message = opened.err().expect("it is refused").to_string();
        assert!(message.contains(word), "{message}");
    };
    chmod(folder.path(), 0o770);
    refused("chmod 700");
    chmod(folder.path(), 0o700);
    CertificateAuthority::open_or_create(folder.path(), trust_domain()).unwrap();
    let key = folder.path().join("ca.key");
    for exposed in [0o640, 0o604, 0o620, 0o666] {
        chmod(&key, exposed);
        refused("chmod 600");
    }
    fs::remove_file(&key).unwrap();
    refused("ca.key is not; restore it");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("file");
    fs::write(&file, "").unwrap();
    let opened = CertificateAuthority::open_or_create(&file.join("ca"), trust_domain());
    let message = opened.err().expect("it is refused").to_string();
    assert!(
        message.starts_with("cannot create the state folder"),
        "{message}"
    );
    assert!(message.contains("file/ca"), "{message}");
}

#[test]
fn every_supported_key_is_accepted() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = authority_params().self_signed(&key).unwrap();
        let files = Files::new(&certificate.pem(), &key.serialize_pem());
        let ca = files.load().unwrap();
        assert_eq!(
            ca.trust_bundle().roots[0].as_ref(),
            certificate.der().as_ref()
        );
    }
}

/// Made with `openssl ecparam -name prime256v1 -genkey -noout`: the form cert-manager writes.
#[test]
fn a_sec1_key_is_accepted() {
    const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIMTZfgVx3Ui73tZgFGgi5CfS1WbZZp1QqrJ/xB6c7t7KoAoGCCqGSM49
AwEHoUQDQgAEjUt572VljdN1qlb5d0Mb7YTZ1YGJYh05/iGflDLtDC+7wci6ywcE
xPHdLPGjLEEQPQ13r3O4D5K6a2OVfqDuEg==
-----END EC PRIVATE KEY-----
";
    let key = KeyPair::from_pem(SEC1).unwrap();
    let certificate = authority_params().self_signed(&key).unwrap();
    Files::new(&certificate.pem(), SEC1).load().unwrap();
}

#[test]
fn brought_keys_may_be_readable_for_their_group_alone() {
    let files = self_signed(|_| {});
    for accepted in [0o400, 0o600, 0o440, 0o640] {
        chmod(&files.key, accepted);
        files.load().unwrap();
    }
    for refused in [0o644, 0o604, 0o660, 0o601] {
        chmod(&files.key, refused);
        files.refused(&["others may read the private key", "chmod 640"]);
    }
}

#[test]
fn unusable_files_are_named_with_a_remedy() {
    let good = self_signed(|_| {});
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let (certificate, key) = (text(&good.certificate), text(&good.key));

    Files::new("", &key).refused(&["BEGIN CERTIFICATE", "ca.crt"]);
    Files::new("garbage", &key).refused(&["BEGIN CERTIFICATE", "ca.crt"]);
    Files::new(&key, &key).refused(&["BEGIN CERTIFICATE", "ca.crt"]);
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    Files::new(empty, &key).refused(&["BEGIN CERTIFICATE", "ca.crt"]);
    Files::new(&certificate, "").refused(&["BEGIN PRIVATE KEY", "ca.key"]);
    Files::new(&certificate, &certificate).refused(&["BEGIN PRIVATE KEY", "ca.key"]);
    let odd = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    Files::new(&certificate, odd).refused(&["no supported kind", "ca.key"]);
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    Files::new(&certificate, sealed).refused(&["is encrypted", "openssl pkey", "ca.key"]);
    let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    Files::new(&certificate, old).refused(&["is encrypted", "ca.key"]);
    let other = KeyPair::generate().unwrap().serialize_pem();
    Files::new(&certificate, &other).refused(&["not that of the first certificate", "ca.crt"]);
    Files::new(&certificate.repeat(9), &key).refused(&["more than 8 certificates"]);
    Files::new(&" ".repeat(200_000), &key).refused(&["larger than"]);

    let gone = self_signed(|_| {});
    fs::remove_file(&gone.key).unwrap();
    gone.refused(&["cannot read", "ca.key", "check the path"]);
    fs::remove_file(&gone.certificate).unwrap();
    gone.refused(&["cannot read", "ca.crt", "check the path"]);
}

#[test]
fn a_certificate_that_may_not_sign_issuers_is_refused() {
    let refused = |change: fn(&mut CertificateParams), words: &[&str]| {
        self_signed(change).refused(words);
    };
    refused(|p| p.is_ca = IsCa::NoCa, &["not a CA", "CA:TRUE"]);
    refused(|p| p.is_ca = IsCa::ExplicitNoCa, &["not a CA"]);
    refused(
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        &["path length is 0"],
    );
    refused(
        |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        &["keyCertSign"],
    );
    refused(
        |p| {
            p.name_constraints = Some(rcgen::NameConstraints {
                permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("shop".to_owned())],
                excluded_subtrees: vec![],
            });
        },
        &["name constraints"],
    );
    refused(
        |p| p.not_after = (SystemTime::now() - DAY).into(),
        &["not now; renew it"],
    );
    refused(
        |p| p.not_before = (SystemTime::now() + DAY).into(),
        &["not now; renew it", "clock"],
    );
}

#[test]
fn an_issuer_below_a_root_brings_the_way_up() {
    let (root_key, middle_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let named = |name: &str| {
        let mut params = authority_params();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params
    };
    let root = named("root").self_signed(&root_key).unwrap();
    let above = Issuer::new(named("root"), &root_key);
    let middle = named("middle").signed_by(&middle_key, &above).unwrap();

    let files = Files::new(&(middle.pem() + &root.pem()), &middle_key.serialize_pem());
    let ca = files.load().unwrap();
    assert_eq!(ca.trust_bundle().roots, [Arc::from(root.der().as_ref())]);
    let loaded = Root::load(
        &files.certificate,
        &files.key,
        KeyAccess::Owner,
        SystemTime::now(),
    );
    assert_eq!(loaded.ok().unwrap().chain, [middle.der().clone()]);

    Files::new(&middle.pem(), &middle_key.serialize_pem())
        .refused(&["append the certificate", "CN=root"]);
}

#[test]
fn further_roots_in_the_file_are_trusted() {
    let (old, new) = (self_signed(|_| {}), self_signed(|_| {}));
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let both = text(&old.certificate) + &text(&new.certificate);
    let ca = Files::new(&both, &text(&old.key)).load().unwrap();
    assert_eq!(ca.trust_bundle().roots.len(), 2);
}
