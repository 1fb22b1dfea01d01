package gate

import (
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Installed lists the names of the gates on this namespace's interfaces, in
// order.
func Installed() ([]string, error) {
	h, err := openHooks("")
	if err != nil {
		return nil, err
	}
	defer h.close()
	links, err := h.links()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range links {
		for _, d := range directions() {
			filters, err := h.filters(link, d)
			if err != nil && !h.isGone(link) {
				return nil, err
			}
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, gatePrefix) {
					names = append(names, strings.TrimPrefix(b.Name, gatePrefix))
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
