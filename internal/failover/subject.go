package failover

import (
	"fmt"
	"strings"

	"had/storage"
	"had/vip"
)

// subject names what an epoch is about, for a line of the log: a policy may have a
// thousand addresses.
func subject(addrs []vip.Address, volumes []storage.Volume) string {
	const most = 4
	var all []string
	for _, a := range addrs {
		all = append(all, a.Addr.String())
	}
	for _, v := range volumes {
		all = append(all, "volume "+v.Name)
	}
	if len(all) > most {
		all = append(all[:most-1:most-1], fmt.Sprintf("%d more", len(all)-most+1))
	}
	return strings.Join(all, ", ")
}
