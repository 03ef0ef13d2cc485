//! The architectures that prof is built for, and who calls them what.

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// PCs and most servers.
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// That of this machine, if prof is built for it.
    pub fn host() -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == std::env::consts::ARCH)
    }

    /// Whether what is built for it runs here.
    pub fn is_host(self) -> bool {
        Self::host() == Some(self)
    }

    /// As Rust calls it, and the directory of its BPF object.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As cargo's `--target` has it.
    pub fn rust_target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// As the names of Debian's packages have it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As the directories of libraries and the GNU tools have it.
    pub fn triplet(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// As libbpf's `bpf_tracing.h` calls it.
    pub fn bpf_define(self) -> &'static str {
        match self {
            Self::X86_64 => "__TARGET_ARCH_x86",
            Self::Aarch64 => "__TARGET_ARCH_arm64",
        }
    }
}

impl Default for Arch {
    fn default() -> Self {
        Self::host().unwrap_or(Self::X86_64)
    }
}
