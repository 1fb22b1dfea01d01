package importer

import "path"

// loss is why statements of these names can't be carried over. Names may hold
// "*", as path.Match has it.
type loss struct {
	why   string
	names []string
}

// Reasons that several statements share.
const (
	wire     = "had speaks no VRRP: its nodes agree over one TCP port each"
	announce = "had announces its addresses by itself, as often as it takes"
	vmac     = "had uses the host's own MAC address: it announces the move, and neighbours learn it anew"
	balance  = "had balances no load: leave this to keepalived without VRRP, or to a balancer behind the address"
	network  = "it belongs to the host's network configuration: it doesn't move"
	process  = "it is about keepalived's own processes"
	watch    = "hactl status, hactl history and /metrics tell what happens"

	unknownWord = "keepalived documents no such statement here"
)

// whyLost returns the first reason that fits name.
func whyLost(losses []loss, name string) string {
	for _, l := range losses {
		for _, pattern := range l.names {
			if ok, _ := path.Match(pattern, name); ok {
				return l.why
			}
		}
	}
	return unknownWord
}

func rootLosses() []loss {
	return []loss{
		{balance, []string{"virtual_server", "virtual_server_group", "SSL"}},
		{network, []string{"static_ipaddress", "static_routes", "static_rules", "track_group"}},
		{"had has no BFD: its own detect is as fast", []string{"bfd_instance"}},
		{"write a check \"exec\" that reads the file", []string{"track_file", "vrrp_track_file"}},
		{"write a check \"exec\" of it, as in command = [\"/usr/bin/pgrep\", \"-x\", \"nginx\"]", []string{"vrrp_track_process"}},
		{announce, []string{"garp_group"}},
		{"had follows the kernel's word on a link", []string{"linkbeat_interfaces", "linkbeat_use_polling", "interface_up_down_delays"}},
		{"run had in the namespace: NetworkNamespacePath= of systemd.exec(5)", []string{"net_namespace", "net_namespace_ipvs", "namespace_with_ipsets"}},
		{"several clusters on one host are several processes: had@NAME", []string{"instance"}},
		{process, []string{"use_pid_dir", "child_wait_time", "include_check", "reload_*"}},
	}
}

func globalLosses() []loss {
	return []loss{
		{"had names itself in HELO", []string{"smtp_helo_name"}},
		{"had tries again until the mail is sent", []string{"smtp_connect_timeout"}},
		{"had tells of everything that needs a person", []string{"no_email_faults"}},
		{balance, []string{"smtp_alert_checker", "checker_log_all_failures", "no_checker_emails", "rs_init_notifies", "lvs_*", "nftables_ipvs*"}},
		{announce, []string{"vrrp_garp_*", "vrrp_gna_interval", "vrrp_min_garp"}},
		{vmac, []string{"vmac_*"}},
		{"had filters no packets: its addresses need no rules", []string{"vrrp_iptables", "vrrp_ipsets", "nftables*", "disable_local_igmp"}},
		{process, []string{
			"*_priority", "*_priority_delay", "*_no_swap", "*_cpu_affinity", "*_rlimit_rttime", "process_name*", "*_process_name", "use_pid_dir",
			"tmp_config_directory", "config_save_dir", "umask", "data_use_instance", "random_seed", "*_netlink_*", "process_monitor_rcv_bufs*",
			"reload_*", "include_check", "max_auto_priority", "instance", "child_wait_time", "dynamic_interfaces",
		}},
		{"a policy is applied to all nodes at once, and checked before", []string{"fifo_write_vrrp_states_on_reload"}},
		{wire, []string{
			"vrrp_version", "vrrp_mcast_*", "vrrp_strict", "vrrp_skip_*", "vrrp_check_*", "vrrp_lower_*", "vrrp_higher_*",
			"vrrp_down_timer_adverts", "vrrp_rx_*", "log_unknown_vrids", "vrrp_startup_delay",
		}},
		{"had writes no FIFO: a notify \"exec\" runs a program for each event", []string{"*notify_fifo*", "vrrp_notify_priority_changes"}},
		{"had has no SNMP and no D-Bus: " + watch, []string{"snmp_socket", "enable_snmp_*", "enable_traps", "enable_dbus", "dbus_service_name"}},
		{"let systemd do it: ExecStartPre= and ExecStopPost= of had.service", []string{"startup_script*", "shutdown_script*"}},
		{network, []string{"default_interface", "linkbeat_use_polling"}},
		{"run had in the namespace: NetworkNamespacePath= of systemd.exec(5)", []string{"net_namespace*", "namespace_with_ipsets"}},
	}
}

func scriptLosses() []loss {
	return []loss{{"a check has to succeed before it counts in a node's favour", []string{"init_fail"}}}
}

// trackLosses are those of instances and groups.
func trackLosses() []loss {
	return []loss{
		{"write a check \"exec\" that reads the file", []string{"track_file"}},
		{"write a check \"exec\" of it, as in command = [\"/usr/bin/pgrep\", \"-x\", \"nginx\"]", []string{"track_process"}},
		{"had has no BFD: its own detect is as fast", []string{"track_bfd"}},
		{"had has no priorities that change", []string{"notify_priority_changes"}},
		{"a policy is replaced as a whole; what it no longer names is released in order", []string{"notify_deleted"}},
	}
}

func groupLosses() []loss {
	return append(trackLosses(), loss{
		"had adds up no weights", []string{"global_tracking", "sync_group_tracking_weight"},
	})
}

func instanceLosses() []loss {
	return append(trackLosses(), []loss{
		{"had's clusters and addresses have names", []string{"virtual_router_id"}},
		{wire, []string{
			"mcast_src_ip", "mcast_dst_ip", "track_src_ip", "version", "check_unicast_src", "unicast_fault_no_peer", "unicast_ttl",
			"old_unicast_checksum", "down_timer_adverts", "lower_prio_no_advert", "higher_prio_send_advert", "skip_check_adv_addr",
			"strict_mode", "kernel_rx_buf_size", "debug", "native_ipv6", "notify_master_rx_lower_pri",
		}},
		{announce, []string{"garp_*", "gna_*"}},
		{vmac, []string{"use_vmac*", "vmac_xmit_base", "use_ipvlan"}},
		{"had gives up an address whose interface has no link", []string{"dont_track_primary"}},
		{"had follows the kernel's word on a link", []string{"linkbeat_use_polling"}},
		{"write an interface of that VRF for the address", []string{"vrf"}},
		{"set it for the interface: sysctl net.ipv4.conf.IFACE.promote_secondaries", []string{"promote_secondaries"}},
		{"packets for had's addresses are always accepted", []string{"accept"}},
		{"packets for had's addresses are always accepted: filter them with nftables", []string{"no_accept"}},
		{"write a PostAcq script with ip route replace … and a PreRel script with ip route del …", []string{"virtual_routes"}},
		{"write a PostAcq script with ip rule add … and a PreRel script with ip rule del …", []string{"virtual_rules"}},
	}...)
}
