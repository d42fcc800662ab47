"""Runs GStreamer pipelines one after the other, in the distribution's Python, and writes what happens as JSON Lines.

    python3 gst_pipeline.py "PIPELINE"... [OPTIONS]

A line with "frame" for each frame that `appsink name=out` gets: its time, format, size, and the regions that it has.
A line with "message" for each element message, QoS message, error and end. Each has "pipeline", the number of the
pipeline. The element comes from GST_PLUGIN_PATH, or from the package with --register FOLDER.
"""

import argparse
import itertools
import json
import sys

import gi

for name in ("Gst", "GstApp", "GstVideo"):
    gi.require_version(name, "1.0")
from gi.repository import GLib, Gst, GstApp, GstVideo  # noqa: E402, F401

LIMIT = 60 * Gst.SECOND


class Run:
    """One pipeline: `detect` is the element, `out` the appsink."""

    def __init__(self, number, description, options):
        self.number, self.options = number, options
        self.pipeline = Gst.parse_launch(description)
        self.detect = self.pipeline.get_by_name("detect")
        out = self.pipeline.get_by_name("out")
        if out is not None:
            out.set_property("emit-signals", True)
            out.connect("new-sample", self.on_sample)
        self.is_pushing = self.is_late = False
        if options.pad:
            before = self.detect.get_static_pad("sink").get_peer()
            before.add_probe(Gst.PadProbeType.BUFFER, self.on_buffer)

    def tell(self, **entry):
        print(json.dumps({"pipeline": self.number, **entry}), flush=True)

    def on_sample(self, sink):
        sample = sink.emit("pull-sample")
        buffer, info = sample.get_buffer(), GstVideo.VideoInfo.new_from_caps(sample.get_caps())
        if self.options.keep is not None:
            with buffer.map(Gst.MapFlags.READ) as mapped, open(f"{self.options.keep}{self.number}", "wb") as file:
                file.write(bytes(mapped.data))
        entry = {"frame": buffer.pts, "format": info.finfo.name, "size": [info.height, info.width]}
        self.tell(**entry, regions=list(regions(buffer)), analytics=analytics(buffer))
        if self.options.late and not self.is_late:
            self.is_late = True
            event = Gst.Event.new_qos(Gst.QOSType.UNDERFLOW, 2.0, int(self.options.late * Gst.SECOND), 0)
            self.detect.get_static_pad("src").send_event(event)
        return Gst.FlowReturn.OK

    def on_buffer(self, pad, info):
        """Gives each row of RGB frames further bytes, of a color that is nowhere in them."""
        if self.is_pushing:
            return Gst.PadProbeReturn.OK
        buffer, extra = info.get_buffer(), self.options.pad
        frame = GstVideo.VideoInfo.new_from_caps(pad.get_current_caps())
        height, width = frame.height, frame.width
        with buffer.map(Gst.MapFlags.READ) as mapped:
            data = bytes(mapped.data)
        stride, row = len(data) // height, 3 * width
        filling = bytes([255, 0, 255] * extra)[:extra]
        rows = [data[i * stride : i * stride + row] + filling for i in range(height)]
        new = Gst.Buffer.new_wrapped(b"".join([filling, *rows]))
        new.pts, new.duration = buffer.pts, buffer.duration
        flags, kind = GstVideo.VideoFrameFlags.NONE, GstVideo.VideoFormat.RGB
        places = [extra, 0, 0, 0], [row + extra, 0, 0, 0]
        GstVideo.buffer_add_video_meta_full(new, flags, kind, width, height, 1, *places)
        self.is_pushing = True
        pad.push(new)
        self.is_pushing = False
        return Gst.PadProbeReturn.DROP

    def run(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        seeks = int(self.options.seek)
        while True:
            message = self.pipeline.get_bus().timed_pop(LIMIT)
            if message is None:
                self.tell(message="timeout")
                break
            if message.type == Gst.MessageType.ERROR:
                self.tell(message="error", text=message.parse_error()[0].message, source=message.src.get_name())
                break
            if message.type == Gst.MessageType.EOS:
                if not seeks:
                    query = Gst.Query.new_latency()
                    self.detect.get_static_pad("src").query(query)
                    self.tell(message="eos", latency=query.parse_latency()[1], version=list(Gst.version())[:2])
                    break
                seeks -= 1
                self.pipeline.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH | Gst.SeekFlags.ACCURATE, 0)
            structure = message.get_structure()
            if message.type == Gst.MessageType.QOS and message.src == self.detect:
                self.tell(message="qos", dropped=message.parse_qos_stats()[2])
            if structure is not None and structure.get_name() == "retinadetect":
                found = json.loads(structure.get_string("detections"))
                names = ("timestamp", "stream-time", "running-time", "width", "height")
                self.tell(message="found", found=found, **{name: structure.get_value(name) for name in names})
        self.pipeline.set_state(Gst.State.NULL)


def regions(buffer):
    number = 0
    while True:
        meta = GstVideo.buffer_get_video_region_of_interest_meta_id(buffer, number)
        if meta is None:
            return
        detection = meta.get_param("detection")
        names = [detection.nth_field_name(i) for i in range(detection.n_fields())]
        values = {name: detection.get_value(name) for name in names}
        yield {"region": [meta.x, meta.y, meta.w, meta.h], "type": GLib.quark_to_string(meta.roi_type), **values}
        number += 1


def analytics(buffer):
    """[label, x, y, width, height, score, track or None] of each object, or None if GStreamer has no such metadata."""
    try:
        gi.require_version("GstAnalytics", "1.0")
    except ValueError:
        return None
    from gi.repository import GstAnalytics

    relations = GstAnalytics.buffer_get_analytics_relation_meta(buffer)
    found = []
    for number in itertools.count():
        is_object, item = relations.get_od_mtd(number)
        is_track, track = relations.get_tracking_mtd(number)
        if is_object:
            _, x, y, width, height, score = item.get_location()
            found.append([GLib.quark_to_string(item.get_obj_type()), x, y, width, height, score, None])
        elif is_track:  # of the object before it
            assert relations.get_relation(number - 1, number) & GstAnalytics.RelTypes.RELATE_TO
            found[-1][-1] = track.get_info()[1]
        else:
            break
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pipelines", nargs="+")
    parser.add_argument("--keep", help="write the bytes of the last frame of each pipeline to a file of this name")
    parser.add_argument("--pad", type=int, default=0, help="bytes that rows get")
    parser.add_argument("--late", type=float, default=0, help="tell after a frame that it is late by these seconds")
    parser.add_argument("--seek", action="store_true", help="play it again, after a seek")
    parser.add_argument("--times", type=int, default=1, help="stop and start each pipeline")
    parser.add_argument("--register", metavar="FOLDER", help="the folder that contains the package")
    options = parser.parse_args()
    Gst.init(None)
    if options.register:
        sys.path[0:0] = options.register.split(":")
        from retinasdk.live import gstreamer

        gstreamer.register()
        gstreamer.register()
    for number, description in enumerate(options.pipelines):
        run = Run(number, description, options)
        for _ in range(options.times):
            run.run()


if __name__ == "__main__":
    main()
