//! The users of a password file (`name:hash` lines, bcrypt or Argon2id), and verdicts about passwords (no I/O; time is
//! passed in). A verdict is remembered under a keyed digest, for a limited time and number. Reaching one requires a
//! hash that is slow by design, so callers compute it on another thread.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};
use aws_lc_rs::hmac;

/// How long a verdict stands. A user that is taken out of the file is out at once: a file that is read anew forgets all.
pub const VERDICT_LIFETIME: Duration = Duration::from_secs(300);
/// Verdicts of each kind that are remembered. Wrong ones are apart, so that guesses push out nobody who is right.
const VERDICTS: usize = 1024;

/// What is wrong with a line of a password file. Nothing of the line is repeated: it holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFault {
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// What is wrong.
    pub what: &'static str,
    /// What to do about it.
    pub help: &'static str,
}

/// A password file.
pub struct Users {
    hashes: HashMap<Box<str>, Box<str>>,
    /// What unknown names are tried against: every hash of the file, so that they take as long as known ones.
    decoys: Box<[Box<str>]>,
    key: hmac::Key,
    verdicts: Mutex<[Verdicts; 2]>,
}

/// A password that nobody has looked at yet, with what it is to be tried against.
pub struct Trial {
    hash: Box<str>,
    password: Box<[u8]>,
    is_known: bool,
    digest: [u8; DIGEST],
}

/// The newer half of what is remembered, and the older: when the newer is full it becomes the older.
#[derive(Default)]
struct Verdicts {
    newer: HashMap<[u8; DIGEST], Instant>,
    older: HashMap<[u8; DIGEST], Instant>,
}

impl Users {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Every line that does not do.
    pub fn parse(text: &str) -> Result<Self, Vec<LineFault>> {
        let (mut hashes, mut faults) = (HashMap::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fault = |at: usize, what, help| {
                let column = line[..at].chars().count() as u32 + 1;
                faults.push(LineFault { line: number, column, what, help });
            };
            let Some((name, hash)) = line.split_once(':') else {
                fault(0, "a line without a colon", "write `name:hash`");
                continue;
            };
            let hash = hash.trim_end();
            if name.is_empty() || name.chars().any(char::is_control) {
                fault(0, "a name is missing, or has control characters", "write `name:hash`");
            } else if let Err((what, help)) = check(hash) {
                fault(name.len() + 1, what, help);
            } else if hashes.insert(name.into(), hash.into()).is_some() {
                fault(0, "the name is given twice", "take one of the lines away");
            }
        }
        if hashes.is_empty() && faults.is_empty() {
            faults.push(LineFault {
                line: 1,
                column: 1,
                what: "no user",
                help: "`htpasswd -B -c FILE NAME` makes one",
            });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut secret = [0; DIGEST];
        // Without randomness the process has no TLS either; a digest without a secret still tells nobody anything.
        let _ = aws_lc_rs::rand::fill(&mut secret);
        let decoys = hashes.values().cloned().collect();
        Ok(Self { hashes, decoys, key: hmac::Key::new(hmac::HMAC_SHA256, &secret), verdicts: Mutex::default() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is none; a file without any is refused.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether there is a user of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.hashes.contains_key(name)
    }

    /// What was found of this password before; else what is to be tried.
    ///
    /// # Errors
    /// The trial: nobody knows yet.
    pub fn verdict(&self, name: &str, password: &[u8], now: Instant) -> Result<bool, Trial> {
        let mut message = Vec::with_capacity(name.len() + password.len() + 8);
        message.extend_from_slice(&(name.len() as u64).to_be_bytes());
        message.extend_from_slice(name.as_bytes());
        message.extend_from_slice(password);
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(hmac::sign(&self.key, &message).as_ref());
        let verdicts = self.verdicts();
        for (index, is_right) in [(RIGHT, true), (WRONG, false)] {
            if verdicts[index].has(&digest, now) {
                return Ok(is_right);
            }
        }
        drop(verdicts);
        let hash = self.hashes.get(name);
        let is_known = hash.is_some();
        let hash = hash.cloned().unwrap_or_else(|| self.decoy(name).into());
        Err(Trial { hash, password: password.into(), is_known, digest })
    }

    /// The hash that an unknown name is tried against. One name always meets the same, as a known one does: were it the same for
    /// all, or another each time, a file of several costs would tell known names by how long they take.
    fn decoy(&self, name: &str) -> &str {
        let mut number = [0; 8];
        number.copy_from_slice(&hmac::sign(&self.key, name.as_bytes()).as_ref()[..8]);
        // A file without any is refused.
        &self.decoys[(u64::from_be_bytes(number) % self.decoys.len().max(1) as u64) as usize]
    }

    /// Remembers how a trial went.
    pub fn learn(&self, digest: [u8; DIGEST], is_right: bool, now: Instant) {
        self.verdicts()[if is_right { RIGHT } else { WRONG }].put(digest, now);
    }

    /// Whole at every step, so a poisoned lock is still good.
    fn verdicts(&self) -> MutexGuard<'_, [Verdicts; 2]> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trial {
    /// Tries the password: tens of milliseconds of a processor, by design. What is compared is compared in constant time.
    pub fn carry_out(&self) -> bool {
        let is_right = if self.hash.starts_with("$argon2id$") {
            Argon2::default().verify_password(&self.password, &*self.hash).is_ok()
        } else {
            bcrypt::verify(&self.password, &self.hash).unwrap_or(false)
        };
        is_right & self.is_known
    }

    /// What its verdict is remembered under.
    pub fn digest(&self) -> [u8; DIGEST] {
        self.digest
    }
}

impl Verdicts {
    fn has(&self, digest: &[u8; DIGEST], now: Instant) -> bool {
        let found = self.newer.get(digest).or_else(|| self.older.get(digest));
        found.is_some_and(|at| now.saturating_duration_since(*at) < VERDICT_LIFETIME)
    }

    fn put(&mut self, digest: [u8; DIGEST], now: Instant) {
        if self.newer.len() >= VERDICTS / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest, now);
    }
}

/// Whether a hash is one that is believed and can be tried within reason.
fn check(hash: &str) -> Result<(), (&'static str, &'static str)> {
    const HELP: &str = "`htpasswd -B` makes bcrypt, `argon2 SALT -id -e` Argon2id";
    if ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| hash.starts_with(prefix)) {
        let parts = hash.parse::<bcrypt::HashParts>().map_err(|_| ("a broken bcrypt hash", HELP))?;
        // 2^16 rounds take seconds, 2^4 is what the format begins with.
        return match parts.get_cost() {
            4..=15 => Ok(()),
            _ => Err(("a bcrypt cost outside of 4 to 15", "10 to 12 is usual: `htpasswd -B -C 11`")),
        };
    }
    if hash.starts_with("$argon2id$") {
        let parsed = PasswordHash::new(hash).map_err(|_| ("a broken Argon2id hash", HELP))?;
        let params = Params::try_from(&parsed).map_err(|_| ("Argon2id parameters out of range", HELP))?;
        if parsed.salt.is_none() || parsed.hash.is_none() {
            return Err(("an Argon2id hash without its salt or its output", HELP));
        }
        let is_sane = params.m_cost() <= 256 << 10 && params.t_cost() <= 32 && params.p_cost() <= 16;
        return if is_sane {
            Ok(())
        } else {
            Err(("Argon2id parameters that cost too much", "at most 256 MiB, 32 passes, 16 lanes"))
        };
    }
    Err(match hash {
        "" => ("the hash is missing", HELP),
        _ if hash.starts_with("$argon2") => ("a kind of Argon2 other than Argon2id", HELP),
        _ if hash.starts_with("$apr1$") || hash.starts_with("$1$") => ("an MD5 hash, which is broken in no time", HELP),
        _ if hash.starts_with("{SHA}") => ("a SHA-1 hash, which is broken in no time", HELP),
        _ if hash.starts_with("$5$") || hash.starts_with("$6$") => ("a hash of crypt's SHA-2, which is not read", HELP),
        _ => ("a plain password, or a hash of an unknown kind", HELP),
    })
}

const RIGHT: usize = 0;
const WRONG: usize = 1;
/// SHA-256.
const DIGEST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn bcrypt_of(password: &str) -> String {
        bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoY)
    }

    /// "secret" with 8 KiB and one pass.
    fn argon2_of(password: &str) -> String {
        use argon2::{Algorithm, Version};
        let mut output = [0; 32];
        let params = Params::new(8, 1, 1, None).unwrap();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), b"saltsalt", &mut output)
            .unwrap();
        use base64::Engine as _;
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes);
        format!("$argon2id$v=19$m=8,t=1,p=1${}${}", base64(b"saltsalt"), base64(&output))
    }

    fn is_right(users: &Users, name: &str, password: &str, now: Instant) -> (bool, bool) {
        match users.verdict(name, password.as_bytes(), now) {
            Ok(verdict) => (verdict, true),
            Err(trial) => {
                let verdict = trial.carry_out();
                users.learn(trial.digest(), verdict, now);
                (verdict, false)
            }
        }
    }

    #[test]
    fn an_unknown_name_takes_as_long_as_some_known_one_and_always_the_same() {
        let users = Users::parse(&format!("ann:{}\nben:{}\n", bcrypt_of("secret"), argon2_of("geheim"))).unwrap();
        let tried = |name: &str, password: &[u8]| {
            let Err(trial) = users.verdict(name, password, Instant::now()) else { panic!("nobody tried {name}") };
            assert!(!trial.is_known);
            trial.hash
        };
        let names: Vec<String> = (0..64).map(|number| format!("nobody{number}")).collect();
        let hashes: Vec<_> = names.iter().map(|name| tried(name, b"a")).collect();
        for known in users.hashes.values() {
            assert!(hashes.contains(known), "nobody is like {known}");
        }
        for (name, hash) in names.iter().zip(&hashes) {
            assert_eq!(tried(name, b"b"), *hash, "{name}");
        }
        // That it is somebody's hash opens nothing.
        let Err(trial) = users.verdict("nobody0", b"secret", Instant::now()) else { panic!("nobody tried it") };
        assert!(!trial.carry_out());
    }

    #[test]
    fn both_hashes_know_their_password_and_it_is_remembered() {
        let text = format!("# people\n\nann:{}\r\nben:{}\n", bcrypt_of("secret"), argon2_of("geheim"));
        let users = Users::parse(&text).unwrap();
        let now = Instant::now();
        for (name, password, expected) in [
            ("ann", "secret", true),
            ("ben", "geheim", true),
            ("ann", "geheim", false),
            ("eve", "secret", false),
            ("ann", "", false),
        ] {
            assert_eq!(is_right(&users, name, password, now), (expected, false), "{name} {password}");
            assert_eq!(is_right(&users, name, password, now), (expected, true), "{name} {password}: remembered");
        }
        assert!(!is_right(&users, "ann", "secret", now + VERDICT_LIFETIME).1, "a verdict does not stand for ever");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_guesses_push_out_nobody_who_is_right() {
        let users = Users::parse(&format!("ann:{}\n", bcrypt_of("secret"))).unwrap();
        let now = Instant::now();
        is_right(&users, "ann", "secret", now);
        for guess in 0..5000_u32 {
            let mut digest = [0; DIGEST];
            digest[..4].copy_from_slice(&guess.to_be_bytes());
            users.learn(digest, false, now);
        }
        let verdicts = users.verdicts();
        let held: usize = verdicts.iter().map(|kind| kind.newer.len() + kind.older.len()).sum();
        drop(verdicts);
        assert!(held <= VERDICTS + 1, "{held}");
        assert_eq!(is_right(&users, "ann", "secret", now), (true, true));
    }

    #[test]
    fn a_name_and_a_password_do_not_run_into_each_other() {
        let users = Users::parse(&format!("ab:{}\na:{}\n", bcrypt_of("c"), bcrypt_of("x"))).unwrap();
        let now = Instant::now();
        assert!(is_right(&users, "ab", "c", now).0);
        assert_eq!(is_right(&users, "a", "bc", now), (false, false));
    }

    #[test]
    fn lines_that_do_not_do_are_told_with_line_and_column() {
        let hash = bcrypt_of("secret");
        let text = format!(
            "ann:{hash}\nplain:secret\nmd5:$apr1$x$y\nsha:{{SHA}}x\nnothing\nnone:\n:{hash}\ndé:$2y$99$x\nid:$argon2i$v=19$m=8\nann:{hash}\n\
             big:$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI\n"
        );
        let faults = Users::parse(&text).err().unwrap();
        let at: Vec<_> = faults.iter().map(|fault| (fault.line, fault.column)).collect();
        assert_eq!(
            at,
            [(2, 7), (3, 5), (4, 5), (5, 1), (6, 6), (7, 1), (8, 4), (9, 4), (10, 1), (11, 5)],
            "{faults:?}"
        );
        assert!(faults[0].what.contains("plain") && faults[1].what.contains("MD5") && faults[2].what.contains("SHA-1"));
        assert!(Users::parse("# nobody\n").is_err());
    }
}
