package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLeftAddresses(t *testing.T) {
	const text = `[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"valid_life_time":4294967295}]},
{"ifname":"eth0","addr_info":[
 {"family":"inet","local":"10.0.0.11","prefixlen":24,"valid_life_time":40},
 {"family":"inet","local":"192.0.2.10","prefixlen":32,"valid_life_time":2},
 {"family":"inet6","local":"2001:db8::10","prefixlen":128,"valid_life_time":1},
 {"family":"inet6","local":"2001:db8::77","prefixlen":128,"valid_life_time":86000},
 {"family":"inet6","local":"fe80::1","prefixlen":64,"valid_life_time":4294967295}]}]`
	got, err := leftAddresses([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]leftAddress{{"192.0.2.10", "eth0", 2000}, {"2001:db8::10", "eth0", 1000}}, got); diff != "" {
		t.Errorf("what is had's (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "{}", `[{"addr_info":[{"prefixlen":"x"}]}]`} {
		if got, err := leftAddresses([]byte(bad)); err == nil {
			t.Errorf("%q gave %v", bad, got)
		}
	}
}
