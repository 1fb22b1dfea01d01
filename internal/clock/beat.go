package clock

import "time"

// UntilBeat returns how long it is until the next beat: until the wall clock shows
// a multiple of every, and no sooner than an eighth of it from now. What has to be
// done once in a while is done on beats, so that a host that idles wakes once for
// all of it, and hosts whose clocks agree ask each other while both are awake. A
// wall clock that is set brings the next beat no further off than that.
func UntilBeat(every time.Duration) time.Duration {
	wait := every - time.Duration(time.Now().UnixNano())%every
	if wait < every/8 { // a timer that went off a little early by the wall clock has had this one
		wait += every
	}
	return wait
}
