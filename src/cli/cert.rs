//! `tidegate cert HOST… --out DIR`: creates a development CA and a certificate for the hosts, as PEM files. A CA that
//! is already in the directory is used again, so that clients need not trust another one.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::certificate::{Certificate, Keep, Signer};
use super::{Exit, terminal};

/// Arguments of `tidegate cert`.
#[derive(Debug, Args)]
#[command(
    after_help = "The CA is for development only: anyone who has ca.key can impersonate any site to clients that \
                        trust ca.pem."
)]
pub struct Cert {
    /// Hosts of the certificate: names, wildcards (`*.`) and IP addresses. The files are named after the first
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,

    /// Output directory, created if missing. If it holds a ca.pem and ca.key, these sign the certificate
    #[arg(long, value_name = "DIR", default_value = "certs")]
    out: PathBuf,

    /// Overwrite the host's certificate and key; the CA is never overwritten
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
                format_args!("{} or its key already exists", certificate.cert.display()),
                "nothing was written; use --force to replace both, or --out for another directory",
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
            Signer::New => "new development CA",
            Signer::Old => "existing development CA",
        };
        let hosts = self.hosts.join(", ");
        let lines = [
            (&files.ca, format!("{authority}; clients that trust it accept the certificates it signs")),
            (&files.ca_key, "its private key; keep it secret".to_owned()),
            (&files.cert, format!("certificate for {hosts}")),
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
            "\nAdd to a [[listener]] in tidegate.toml:\n  \
             tls.certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n\n\
             Try it:\n  {}\n",
            self.hosts.first().map_or_else(String::new, |host| files.curl(host, 443))
        );
        text
    }
}
