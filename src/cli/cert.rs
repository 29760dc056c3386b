//! `tidegate cert HOST… --out DIR`: a development authority and a certificate for the hosts, as PEM files. An authority
//! that is in the directory already signs again, so that who trusts it need not trust another.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::certificate::{Certificate, Keep, Signer};
use super::{Exit, terminal};

/// Arguments of `tidegate cert`.
#[derive(Debug, Args)]
#[command(
    after_help = "The authority is for development: whoever holds ca.key can pose as any site to whoever trusts \
                        ca.pem."
)]
pub struct Cert {
    /// What the certificate is for: names, `*.` names, addresses. The first names the files
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,

    /// The directory to write to; made if it is not there. A ca.pem and ca.key found in it sign the new certificate
    #[arg(long, value_name = "DIR", default_value = "certs")]
    out: PathBuf,

    /// Overwrite the certificate and key of the host; never the authority
    #[arg(long)]
    force: bool,
}

impl Cert {
    /// Writes the files and tells how to use them.
    pub fn run(&self) -> Exit {
        let Some(first) = self.hosts.first() else { return Exit::Usage };
        let certificate = Certificate::named(&self.out, first);
        if certificate.exists() && !self.force {
            terminal::complain(
                format_args!("{} or its key is there already", certificate.cert.display()),
                "nothing was written; --force replaces both, --out names another directory",
            );
            return Exit::Fault;
        }
        match certificate.create(&self.hosts, Keep::Authority) {
            Ok(signer) => {
                terminal::print(&self.account(&certificate, signer));
                Exit::Done
            }
            Err(error) => error.report(),
        }
    }

    fn account(&self, files: &Certificate, signer: Signer) -> String {
        let authority = match signer {
            Signer::New => "a new development authority",
            Signer::Old => "the development authority that was there",
        };
        let hosts = self.hosts.join(", ");
        let lines = [
            (&files.ca, format!("{authority}: clients that trust it accept what it signs")),
            (&files.ca_key, "its key: keep it to yourself".to_owned()),
            (&files.cert, format!("the certificate for {hosts}")),
            (&files.key, "its key".to_owned()),
        ];
        let width = lines.iter().map(|(path, _)| path.display().to_string().chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (path, what) in lines {
            let _ = writeln!(text, "{:width$}  {what}", path.display().to_string());
        }
        let (cert, key) = (files.cert.display(), files.key.display());
        let _ = write!(
            text,
            "\nIn a [[listener]] of tidegate.toml:\n  \
             tls.certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n\n\
             Try it:\n  {}\n",
            self.hosts.first().map_or_else(String::new, |host| files.curl(host, 443))
        );
        text
    }
}
