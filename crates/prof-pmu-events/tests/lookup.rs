//! Which CPU has which table, and what is in it.

#![allow(clippy::unwrap_used)]

use prof_pmu_events::Arch;
use prof_pmu_events::CpuId;
use prof_pmu_events::Event;
use prof_pmu_events::Precise;
use prof_pmu_events::Table;

fn table(cpu: &str) -> Option<Table<'static>> {
    Table::for_cpu(&cpu.parse().unwrap()).unwrap()
}

fn one<'t>(table: &'t Table<'_>, name: &str) -> Event<'t> {
    let mut found = table.find(name);
    let event = found.next().unwrap();
    assert_eq!(found.next(), None, "{name} is on one PMU");
    event
}

/// Model numbers and MIDRs as the vendors publish them.
#[test]
fn cpus_have_their_models_tables() {
    for (cpu, model) in [
        ("GenuineIntel-6-5E-3", Some("skylake")),  // Core i7-6700
        ("GenuineIntel-6-9E-D", Some("skylake")),  // Core i9-9900K
        ("GenuineIntel-6-55-4", Some("skylakex")), // Xeon Platinum 8175
        ("GenuineIntel-6-55-5", Some("cascadelakex")), // the first that differs
        ("GenuineIntel-6-55-7", Some("cascadelakex")), // Xeon Platinum 8259
        ("GenuineIntel-6-55-B", Some("cascadelakex")), // Cooper Lake
        ("GenuineIntel-6-3F-2", Some("haswellx")), // Xeon E5-2676 v3
        ("GenuineIntel-6-4F-1", Some("broadwellx")), // Xeon E5-2686 v4
        ("GenuineIntel-6-7E-5", Some("icelake")),  // Core i7-1065G7
        ("GenuineIntel-6-6A-6", Some("icelakex")), // Xeon Platinum 8375
        ("GenuineIntel-6-8F-8", Some("sapphirerapids")), // Xeon Platinum 8488
        ("GenuineIntel-6-CF-2", Some("emeraldrapids")),
        ("GenuineIntel-6-AD-1", Some("graniterapids")),
        ("GenuineIntel-6-97-2", Some("alderlake")), // Core i9-12900
        ("GenuineIntel-6-BA-2", Some("alderlake")), // Raptor Lake-P
        ("GenuineIntel-6-BE-0", Some("alderlaken")), // N100
        ("GenuineIntel-6-1A-5", Some("nehalemep")),
        ("AuthenticAMD-23-1-2", Some("amdzen1")), // EPYC 7571
        ("AuthenticAMD-23-18-1", Some("amdzen1")), // Ryzen 7 3750H
        ("AuthenticAMD-23-31-0", Some("amdzen2")), // EPYC 7R32
        ("AuthenticAMD-23-71-0", Some("amdzen2")), // Ryzen 9 3900X
        ("AuthenticAMD-25-1-1", Some("amdzen3")), // EPYC 7R13
        ("AuthenticAMD-25-21-0", Some("amdzen3")), // Ryzen 9 5950X
        ("AuthenticAMD-25-11-1", Some("amdzen4")), // EPYC 9R14
        ("AuthenticAMD-25-61-2", Some("amdzen4")), // Ryzen 9 7950X
        ("AuthenticAMD-26-2-1", Some("amdzen5")), // EPYC 9965 and its like
        ("AuthenticAMD-26-44-0", Some("amdzen5")), // Ryzen 9 9950X
        ("AuthenticAMD-21-2-0", None),            // Piledriver
        ("HygonGenuine-24-1-1", None),
        ("GenuineIntel-15-4-1", None), // Pentium 4
        ("GenuineIntel-6-FF-0", None),
        ("0x00000000413fd0c1", Some("arm/neoverse-n1")), // Graviton2, Altra
        ("0x00000000411fd401", Some("arm/neoverse-v1")), // Graviton3
        ("0x00000000410fd4f1", Some("arm/neoverse-n2-v2")), // Graviton4: Neoverse V2
        ("0x00000000410fd490", Some("arm/neoverse-n2-v2")), // Cobalt 100: Neoverse N2
        ("0x00000000410fd083", Some("arm/cortex-a57-a72")), // Graviton, Raspberry Pi 4
        ("0x00000000414fd0b1", Some("arm/cortex-a76")),  // Raspberry Pi 5
        ("0x00000000410fd034", Some("arm/cortex-a53")),  // Raspberry Pi 3
        ("0x00000000481fd010", Some("hisilicon/hip08")), // Kunpeng 920
        ("0x00000000461f0010", Some("fujitsu/a64fx")),
        ("0x00000000c00fac30", Some("ampere/ampereone")),
        ("0x00000000431f0af1", Some("cavium/thunderx2")),
        ("0x00000000611f0221", None), // Apple M1
        ("0x0000000000000000", None),
    ] {
        assert_eq!(table(cpu).as_ref().map(Table::model), model, "{cpu}");
    }
}

#[test]
fn a_name_is_found_in_any_case_with_all_that_is_known() {
    let table = table("GenuineIntel-6-8F-8").unwrap();
    for name in ["MEM_INST_RETIRED.ALL_LOADS", "mem_inst_retired.all_loads"] {
        let event = one(&table, name);
        assert_eq!(event.name, "mem_inst_retired.all_loads");
        assert_eq!(event.pmu, Event::CORE);
        assert_eq!(event.terms, "event=0xd0,period=1000003,umask=0x81");
        assert_eq!(event.topic, "cache");
        assert_eq!((event.unit, event.scale), (None, 1.0));
        assert_eq!(event.precise, Precise::Unsaid);
        assert!(event.data_address && !event.per_package && !event.deprecated);
        let text = table.description(&event).unwrap().unwrap();
        assert!(text.starts_with("Retired load instructions"), "{text}");
        let long = table.long_description(&event).unwrap().unwrap();
        assert!(long.len() > text.len(), "{long}");
    }
    assert_eq!(table.find("mem_inst_retired").next(), None);
    assert_eq!(table.find("").next(), None);
    let uncore = one(&table, "unc_cha_clockticks");
    assert!(uncore.is_of_pmu("uncore_cha_3") && uncore.per_package);
}

#[test]
fn precise_events_and_errata_are_told_where_the_file_does() {
    let table = table("GenuineIntel-6-5E-3").unwrap();
    let event = one(&table, "mem_inst_retired.all_loads");
    assert_eq!((event.precise, event.data_address, event.errata), (Precise::Can, true, None));
    let event = one(&table, "inst_retired.prec_dist");
    assert_eq!((event.precise, event.errata), (Precise::Must, Some("SKL091, SKL044")));
    assert!(table.iter().any(|e| e.deprecated));
}

#[test]
fn a_hybrid_cpu_has_a_name_on_both_kinds_of_cores() {
    let table = table("GenuineIntel-6-97-2").unwrap();
    let pmus: Vec<_> = table.find("INST_RETIRED.ANY_P").map(|e| (e.pmu, e.terms)).collect();
    assert_eq!(
        pmus,
        [("cpu_atom", "event=0xc0,period=2000003"), ("cpu_core", "event=0xc0,period=2000003")]
    );
}

#[test]
fn scaled_events_have_their_unit() {
    let table = table("GenuineIntel-6-55-7").unwrap();
    let event = one(&table, "llc_misses.mem_read");
    assert_eq!((event.scale, event.unit), (64.0, Some("Bytes")));
    let event = one(&table, "unc_m_pmm_bandwidth.total");
    assert_eq!((event.scale, event.unit), (6.103515625e-5, Some("MiB/sec")));
}

#[test]
fn arm_s_common_events_are_in_each_model_that_has_them() {
    let table = table("0x00000000413fd0c1").unwrap();
    let event = one(&table, "L1D_CACHE_REFILL");
    assert_eq!((event.pmu, event.terms), (Event::CORE, "event=3"));
    assert!(table.description(&event).unwrap().is_some());
}

#[test]
fn pmus_outside_of_the_cpu_are_told_apart_by_their_identifier() {
    let table = Table::of_system(Arch::Arm64).unwrap().unwrap();
    let found: Vec<_> = table.find("imx8mm_ddr.cycles").collect();
    assert!(found.iter().all(|e| e.is_of_pmu("imx8_ddr0")));
    assert!(found.iter().any(|e| e.fits("i.MX8MM")) && !found.iter().all(|e| e.fits("i.MX8MQ")));
    assert!(Table::of_system(Arch::X86).unwrap().is_none());
}

#[test]
fn every_model_decodes_and_each_of_its_names_is_found() {
    let mut events = 0;
    for arch in Arch::ALL {
        for model in Table::models(arch).unwrap() {
            let table = Table::of_model(arch, &model.name).unwrap().unwrap();
            assert_eq!((table.model(), table.len()), (&*model.name, model.events));
            assert!(!table.is_empty());
            for event in table.iter() {
                assert!(table.find(event.name).any(|e| e == event), "{event:?}");
                table.description(&event).unwrap();
                assert!(!event.topic.is_empty() && !event.terms.is_empty(), "{event:?}");
                events += 1;
            }
        }
    }
    assert!(events > 50_000, "{events}");
}

#[test]
fn this_host_is_told_or_says_why_not() {
    match CpuId::of_host("/sys".as_ref(), "/proc".as_ref()) {
        Ok(cpu) => println!("{cpu:?}: {:?}", cpu.as_ref().map(|c| Table::for_cpu(c).is_ok())),
        Err(error) => assert!(error.to_string().contains('/'), "{error}"),
    }
}
