package checkup

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"had/internal/policy"
	"had/vip"
)

// probeWindow is how long it is listened for other holders of the addresses:
// nobody waits for this, so slow hosts get their chance.
const probeWindow = 200 * time.Millisecond

// addresses looks at the interfaces of a policy's addresses, once each, and
// whether somebody else has an address.
func addresses(ctx context.Context, r *report, c Config, p *policy.Policy, owner []net.HardwareAddr) {
	want := make([]vip.Wanted, len(p.VIPs))
	for i, v := range p.VIPs {
		want[i] = vip.Wanted{Addr: v.Address, Interface: v.InterfaceOn(c.Node)}
	}
	var good []vip.Address
	on := map[string][]string{} // names of vips, by interface
	var order []string
	for i, a := range c.Network.Resolve(want) {
		if a.Err != nil {
			r.fail("interface", "name its interface on "+c.Node+" in the policy, or give this host an address in that network", "vip %q: %v", p.VIPs[i].Name, a.Err)
			continue
		}
		if on[a.Interface] == nil {
			order = append(order, a.Interface)
		}
		on[a.Interface] = append(on[a.Interface], p.VIPs[i].Name)
		good = append(good, a.Address)
	}
	for _, iface := range order {
		switch up, err := c.Network.Carrier(iface); {
		case err != nil:
			r.fail("interface", "ip link show "+iface, "%s for %s can't be read: %v", iface, few(on[iface]), err)
		case !up:
			r.fail("interface", "look at the cable and the switch, or: ip link set "+iface+" up", "%s for %s has no link", iface, few(on[iface]))
		default:
			r.ok("interface", "%s for %s has a link", iface, few(on[iface]))
		}
	}
	held(r, c, p)
	foreign(ctx, r, c, good, owner)
}

// held says what of the policy's addresses is on this host.
func held(r *report, c Config, p *policy.Policy) {
	addrs := make([]netip.Addr, len(p.VIPs))
	for i, v := range p.VIPs {
		addrs[i] = v.Address
	}
	if len(addrs) == 0 {
		return
	}
	there, err := c.Network.Presence(addrs)
	if err != nil {
		r.fail("addresses", "", "can't tell which of them are on this host: %v", err)
		return
	}
	var here []string
	for _, a := range addrs {
		if there[a] == vip.Active {
			here = append(here, a.String())
		}
	}
	switch epoch := c.Held(); {
	case len(here) == 0 && epoch == 0:
		r.ok("addresses", "none of the %d is on this host", len(addrs))
	case epoch == 0:
		r.fail("addresses", "remove it from this host's own network settings, or wait until an earlier run's address has expired", "%s is on this host although the log gives it to nobody here", few(here))
	default:
		r.ok("addresses", "%d of %d are on this host, which has epoch %d", len(here), len(addrs), epoch)
	}
}

// foreign asks the network whether somebody who isn't the owner has an address.
func foreign(ctx context.Context, r *report, c Config, addrs []vip.Address, owner []net.HardwareAddr) {
	if len(addrs) == 0 {
		return
	}
	conflicts, err := c.Network.Holders(ctx, addrs, probeWindow, owner)
	for _, f := range conflicts {
		r.fail("network", "find the host with that MAC address and take the address from it", "%s is answered by %s: another host has it", f.Address, f.MAC)
	}
	switch {
	case err != nil:
		r.warn("network", "", "it could not be asked whether another host has an address: %v", err)
	case len(conflicts) == 0:
		r.ok("network", "nobody but the owner answers for the addresses")
	}
}

// few names some of many.
func few(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return strings.Join(slices.Concat(all[:most-1], []string{"…"}), ", ")
}
