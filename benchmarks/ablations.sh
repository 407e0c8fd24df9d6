#!/usr/bin/env bash
# Everything in docs/ablations.md: benchmarks/ablations.sh DIR OUT RLFN [NAME...], where DIR holds Set14 and B100 and
# RLFN is team04_rlfn.pth. Three seeds each. NAME: of the comparisons below; all of them if none is named.
# Runs that differ in nothing are trained once: about 200 runs, two minutes of one core each. Goes on where it stopped.
set -euo pipefail
data=$1 out=$2 rlfn=$3 names=" ${*:4} "
compare() { # name, recipe, further arguments
  [[ -z ${names// /} || $names == *" $1 "* ]] || return 0
  quantsr compare "$2" "${@:3}" --seeds 0 1 2 --data "$data" -o "$out"
  for kind in json md; do mv "$out/compare.$kind" "$out/$1.$kind"; done
}
small=small-x4-w2a2
compare rivals $small --vary quant.quantizer=rlq,lsq,pams,pact,dorefa,daq,ddtb,odm
compare temperature $small --vary quant.temperature=0,1,2,4
compare schedule $small --with 'optim.temperatures=[1, 2, 4]'
compare act-shift $small --vary quant.act_shift=per_channel,per_tensor,none
compare weight-shift $small --vary quant.weight_shift=false,true
compare granularity $small --vary quant.weight_granularity=per_tensor,per_channel
compare range $small --vary quant.range_init=lsq,percentile
compare rate $small --vary stages.quantized.optim.quantizer_rate=0.01,0.1,1.0
compare shift-rate $small --vary stages.quantized.optim.shift_rate=0.01,0.1,1.0
full_rate=stages.quantized.optim.quantizer_rate=1.0
compare rivals-rate $small --with $full_rate --vary quant.quantizer=rlq,lsq,pams,pact,ddtb,odm
compare mismatch $small --with $full_rate --vary quant.quantizer=rlq,odm
compare optimiser $small --with $full_rate --vary stages.quantized.optim.method=adam,muon
as_recipes="$full_rate --with stages.quantized.optim.method=muon --with stages.quantized.teacher.weights=stage:float"
compare rivals-muon $small --with $as_recipes --vary quant.quantizer=rlq,lsq,odm
compare features-muon $small --with $as_recipes --vary stages.quantized.teacher.feature_weight=0.0,0.01
compare grid-muon $small --with $as_recipes --vary quant.weight_grid=mid_tread,mid_rise
compare grid $small --with $full_rate --vary quant.weight_grid=mid_tread,mid_rise
compare grid-3-bits $small --with $full_rate --with quant.weight_bits=3 --with quant.act_bits=3 \
  --vary quant.weight_grid=mid_tread,mid_rise
compare start $small --with $full_rate --with quant.weight_grid=mid_rise --vary quant.range_init=lsq,least_error \
  --vary quant.act_shift=per_channel,none
compare teacher $small --with $full_rate --with stages.quantized.teacher.weights=stage:float \
  --vary stages.quantized.teacher.weight=0.0,0.5
compare teacher-rlfn $small --with $full_rate --with "stages.quantized.teacher.weights=$rlfn" \
  --with stages.quantized.teacher.kind=rlfn --vary stages.quantized.teacher.weight=0.0,0.5,1.0
compare shrunk $small --with $full_rate --vary 'stages.quantized.data.shrunk=[],[0.5]'
compare features $small --with stages.quantized.teacher.weights=stage:float --with stages.quantized.teacher.weight=0.0 \
  --vary stages.quantized.teacher.feature_weight=0.0,0.01,0.1
compare ranking $small-dqa --vary stages.dqa.run.ranking=small-gain,large-gain,sensitivity
compare sandwich $small-dqa --with stages.dqa.run.ranking=sensitivity --vary stages.dqa.teacher.sandwich=0.0,0.25,0.5
compare transformer small-t-x4-w2a2 --vary quant.quantizer=rlq,lsq,dorefa,pams
compare transformer-bounds small-t-x4-w2a2 --vary quant.quantizer=rlq,ddtb,odm,daq
compare transformer-range small-t-x4-w2a2 --vary quant.range_init=least_error,lsq --vary quant.quantizer=rlq,lsq
compare placement $small --vary quant.quantizer=rlq --vary quant.placement=body,pams,cadyq
